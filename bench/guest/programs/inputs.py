# inputs: writes the workloads' input files into the folder given; the same bytes on every run.
import random
import sys

FUNCTIONS = [
    """struct node_N { struct node_N *left, *right; unsigned key; long value; };
static struct node_N *insert_N(struct node_N *root, struct node_N *fresh) {
    if (!root) return fresh;
    if (fresh->key < root->key) root->left = insert_N(root->left, fresh);
    else if (fresh->key > root->key) root->right = insert_N(root->right, fresh);
    else root->value += fresh->value * A;
    return root;
}
long walk_N(const struct node_N *root, int depth) {
    return root ? walk_N(root->left, depth + 1) + root->value * depth + walk_N(root->right, depth + 1) : B;
}
long tree_N(struct node_N *pool, const unsigned *keys, unsigned count) {
    struct node_N *root = 0;
    for (unsigned i = 0; i < count; ++i) {
        pool[i].left = pool[i].right = 0; pool[i].key = keys[i] % C; pool[i].value = i;
        root = insert_N(root, &pool[i]);
    }
    return walk_N(root, 1);
}""",
    """int scan_N(const char *text, long *out, int room) {
    int state = 0, found = 0; long number = 0;
    for (; *text; ++text) {
        switch (state) {
        case 0: if (*text >= '0' && *text <= '9') { number = *text - '0'; state = 1; } else if (*text == '"') state = 2; else if (*text == '#') state = 3; break;
        case 1: if (*text >= '0' && *text <= '9') number = number * 10 + *text - '0';
                else { if (found < room) out[found++] = number ^ A; state = 0; } break;
        case 2: if (*text == '\\\\') state = 4; else if (*text == '"') { state = 0; if (found < room) out[found++] = B; } break;
        case 3: if (*text == '\\n') state = 0; break;
        case 4: state = 2; break;
        }
    }
    return found;
}""",
    """void smooth_N(double *restrict to, const double *restrict from, int width, int height) {
    for (int y = 1; y < height - 1; ++y)
        for (int x = 1; x < width - 1; ++x) {
            const double *p = from + y * width + x;
            double sum = p[0] * A + (p[-1] + p[1]) * 0.5 + (p[-width] + p[width]) * 0.25;
            to[y * width + x] = sum > B ? sum / (1.0 + sum) : sum * C;
        }
}
double norm_N(const double *v, int n) { double s = 0; for (int i = 0; i < n; ++i) s += v[i] * v[i] * (i & 3 ? 1 : A); return s; }""",
    """unsigned hash_N(const unsigned char *data, unsigned length) {
    unsigned a = A, b = B, c = C;
    while (length >= 12) {
        unsigned w[3]; __builtin_memcpy(w, data, 12);
        a += w[0]; b += w[1]; c += w[2];
        a -= c; a ^= c << 4 | c >> 28; c += b; b -= a; b ^= a << 6 | a >> 26; a += c; c -= b; c ^= b << 8 | b >> 24; b += a;
        data += 12; length -= 12;
    }
    switch (length) {
    case 11: c += data[10] << 16; /* fall through */ case 10: c += data[9] << 8; /* fall through */ case 9: c += data[8]; /* fall through */
    case 8: b += data[7] << 24; /* fall through */ case 7: b += data[6] << 16; /* fall through */ case 6: b += data[5] << 8; /* fall through */
    case 5: b += data[4]; /* fall through */ case 4: a += data[3]; /* fall through */ case 3: a += data[2]; /* fall through */
    case 2: a += data[1]; /* fall through */ case 1: a += data[0];
    }
    c ^= b; c -= b << 14 | b >> 18; a ^= c; a -= c << 11 | c >> 21;
    return a ^ c;
}""",
    """static void sift_N(long *heap, int at, int count) {
    for (int child; (child = at * 2 + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1] % A > heap[child] % A) ++child;
        if (heap[at] % A >= heap[child] % A) return;
        long swap = heap[at]; heap[at] = heap[child]; heap[child] = swap;
    }
}
void sort_N(long *heap, int count) {
    for (int i = count / 2; i-- > 0;) sift_N(heap, i, count);
    while (count-- > 1) { long swap = heap[0]; heap[0] = heap[count]; heap[count] = swap; sift_N(heap, 0, count); }
}
int find_N(const long *heap, int count, long key) {
    int low = 0, high = count;
    while (low < high) { int middle = low + (high - low) / 2; if (heap[middle] % A < key % B) low = middle + 1; else high = middle; }
    return low < count && heap[low] == key ? low : -C;
}""",
]


def text(path, size):
    """Words with a skewed distribution: compresses to about a third."""
    source = random.Random(7)
    words = ["".join(source.choice("etaoinshrdlucmfw") for _ in range(source.randint(2, 9))) for _ in range(4000)]
    with open(path, "w", encoding="ascii") as out:
        written = 0
        while written < size:
            line = " ".join(words[min(int(source.expovariate(1 / 400)), 3999)] for _ in range(12)) + "\n"
            out.write(line[: size - written])
            written += len(line)


def program(path, functions):
    """C that includes nothing: trees, state machines, floating point loops, hashes, heaps."""
    source = random.Random(11)
    with open(path, "w", encoding="ascii") as out:
        for number in range(functions):
            body = FUNCTIONS[number % len(FUNCTIONS)].replace("_N", f"_{number}")
            for letter in "ABC":
                body = "".join(str(source.randint(3, 9999)) if part == letter else part for part in split_words(body))
            out.write(body + "\n\n")


def split_words(body):
    """The text cut so that identifiers stand alone."""
    parts, word = [], ""
    for char in body:
        if char.isalnum() or char == "_":
            word += char
        else:
            parts += [word, char]
            word = ""
    return parts + [word]


def main():
    folder = sys.argv[1]
    text(folder + "/text", 8 << 20)
    program(folder + "/program.c", 18)


if __name__ == "__main__":
    main()
