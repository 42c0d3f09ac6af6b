// guestbench: fixed-work workloads that run natively and inside a guest, one static program.
//
// `guestbench` lists the workloads; `guestbench NAME...` runs each and prints "BENCH NAME SECONDS
// CHECK": wall time by CLOCK_MONOTONIC and a value that must be equal everywhere. Each does a fixed
// amount of work, about 0.05 to 0.4 s natively on a 2020s core, at most 12 s under a slow emulator.
// `guestbench --serve FOLDER` runs scripts of FOLDER on request (serve.h). bench/system/ compares
// the lines of a native run, of Strata and of its peer.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <immintrin.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "serve.h"

namespace {

double now() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

std::uint64_t next_random(std::uint64_t& state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

__attribute__((noinline)) std::uint64_t fib(unsigned n) {
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}
std::uint64_t run_fib() {
    return fib(38);
}

template <int N>
__attribute__((noinline)) std::uint64_t leaf(std::uint64_t x) {
    return x * (2 * N + 1) + N;
}
std::uint64_t run_indirect() {
    using Function = std::uint64_t (*)(std::uint64_t);
    volatile Function table[] = {leaf<0>, leaf<1>, leaf<2>, leaf<3>,
                                 leaf<4>, leaf<5>, leaf<6>, leaf<7>};
    std::uint64_t x = 1;
    for (int i = 0; i < 60'000'000; ++i) {
        x = table[(x >> 33) & 7](x) * 6364136223846793005ULL + 1442695040888963407ULL;
    }
    return x;
}

std::uint64_t run_sieve() {
    constexpr std::size_t kLimit = 4'000'000;
    std::uint64_t sum = 0;
    for (int round = 0; round < 10; ++round) {
        std::vector<std::uint8_t> composite(kLimit);
        for (std::size_t i = 2; i < kLimit; ++i) {
            if (composite[i] == 0) {
                sum += i;
                for (std::size_t j = i * 2; j < kLimit; j += i) {
                    composite[j] = 1;
                }
            }
        }
    }
    return sum;
}

int compare_numbers(const void* left, const void* right) {
    const auto a = *static_cast<const std::uint32_t*>(left);
    const auto b = *static_cast<const std::uint32_t*>(right);
    return a < b ? -1 : a > b ? 1 : 0;
}
std::uint64_t run_qsort() {
    std::vector<std::uint32_t> numbers(1'500'000);
    std::uint64_t state = 88172645463325252ULL;
    for (auto& number : numbers) {
        number = static_cast<std::uint32_t>(next_random(state));
    }
    std::qsort(numbers.data(), numbers.size(), sizeof(numbers[0]), compare_numbers);
    return numbers[numbers.size() / 3];
}

std::uint64_t run_nbody() {
    struct Body {
        double p[3], v[3], m;
    };
    std::array<Body, 5> bodies{};
    for (std::size_t i = 0; i < bodies.size(); ++i) {
        const auto d = static_cast<double>(i + 1);
        bodies[i] = {{d * 1.3, -d * 0.7, d * 0.2}, {0.1 * d, 0.05, -0.02 * d}, 1.0 / d};
    }
    for (int step = 0; step < 2'000'000; ++step) {
        for (std::size_t i = 0; i < 5; ++i) {
            for (std::size_t j = i + 1; j < 5; ++j) {
                double d[3], squared = 1e-3;
                for (int k = 0; k < 3; ++k) {
                    d[k] = bodies[i].p[k] - bodies[j].p[k];
                    squared += d[k] * d[k];
                }
                const double magnitude = 1e-4 / (squared * __builtin_sqrt(squared));
                for (int k = 0; k < 3; ++k) {
                    bodies[i].v[k] -= d[k] * bodies[j].m * magnitude;
                    bodies[j].v[k] += d[k] * bodies[i].m * magnitude;
                }
            }
        }
        for (auto& body : bodies) {
            for (int k = 0; k < 3; ++k) {
                body.p[k] += 1e-4 * body.v[k];
            }
        }
    }
    std::uint64_t bits = 0;
    std::memcpy(&bits, &bodies[0].p[0], sizeof(bits));
    return bits;
}

constexpr int kMatrix = 384;
template <typename Multiply>
std::uint64_t matrix(int rounds, Multiply multiply) {
    std::vector<float> a(kMatrix * kMatrix), b(a.size()), c(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
        a[i] = static_cast<float>(i % 17);
        b[i] = static_cast<float>(i % 13);
    }
    for (int round = 0; round < rounds; ++round) {
        multiply(a.data(), b.data(), c.data());
    }
    std::uint64_t sum = 0;
    for (const float value : c) {
        sum += static_cast<std::uint64_t>(value);
    }
    return sum;
}
std::uint64_t run_sse2_matrix() {
    return matrix(15, [](const float* a, const float* b, float* c) {
        for (int i = 0; i < kMatrix; ++i) {
            for (int k = 0; k < kMatrix; ++k) {
                const __m128 x = _mm_set1_ps(a[i * kMatrix + k]);
                for (int j = 0; j < kMatrix; j += 4) {
                    float* out = c + i * kMatrix + j;
                    const __m128 old = k == 0 ? _mm_setzero_ps() : _mm_loadu_ps(out);
                    _mm_storeu_ps(
                        out, _mm_add_ps(old, _mm_mul_ps(x, _mm_loadu_ps(b + k * kMatrix + j))));
                }
            }
        }
    });
}
__attribute__((target("avx2,fma"))) void multiply_avx2(const float* a, const float* b, float* c) {
    for (int i = 0; i < kMatrix; ++i) {
        for (int k = 0; k < kMatrix; ++k) {
            const __m256 x = _mm256_set1_ps(a[i * kMatrix + k]);
            for (int j = 0; j < kMatrix; j += 8) {
                float* out = c + i * kMatrix + j;
                const __m256 old = k == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(out);
                _mm256_storeu_ps(out,
                                 _mm256_fmadd_ps(x, _mm256_loadu_ps(b + k * kMatrix + j), old));
            }
        }
    }
}
std::uint64_t run_avx2_matrix() {
    return __builtin_cpu_supports("avx2") ? matrix(30, multiply_avx2) : 0;
}

std::uint64_t run_x87() {
    volatile long double start = 1.5L;
    long double x = start;
    for (int i = 0; i < 8'000'000; ++i) {
        x = __builtin_sqrtl(x * x + 1.0L) / (x + 0.5L) + 0.25L;
    }
    return static_cast<std::uint64_t>(x * 1e15L);
}

std::uint64_t run_memcpy() {
    std::vector<char> from(64 << 10, 'x'), to(64 << 10);
    for (int i = 0; i < 40'000; ++i) {
        from[static_cast<std::size_t>(i) & 0xffff] = static_cast<char>(i);
        std::memcpy(to.data(), from.data(), to.size());
        __asm__ volatile("" ::"r"(to.data()) : "memory");
    }
    return static_cast<std::uint64_t>(to[100]);
}
std::uint64_t run_bigcopy() {
    std::vector<char> from(64 << 20, 'x'), to(64 << 20);
    for (int i = 0; i < 20; ++i) {
        from[static_cast<std::size_t>(i)] = static_cast<char>(i);
        std::memcpy(to.data(), from.data(), to.size());
        __asm__ volatile("" ::"r"(to.data()) : "memory");
    }
    return static_cast<std::uint64_t>(to[10]);
}
std::uint64_t run_rep_stos() {
    std::vector<char> to(1 << 20);
    for (int i = 0; i < 6'000; ++i) {
        void* at = to.data();
        std::size_t count = to.size();
        __asm__ volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(i) : "memory");
    }
    return static_cast<std::uint64_t>(static_cast<unsigned char>(to[5]));
}

std::uint64_t run_chase() {
    constexpr std::size_t kNodes = 1 << 20;
    std::vector<std::uint32_t> next(kNodes);
    for (std::uint32_t i = 0; i < kNodes; ++i) {
        next[i] = i;
    }
    std::uint64_t state = 1234567;
    for (std::size_t i = kNodes - 1; i > 0; --i) {
        std::swap(next[i], next[next_random(state) % i]);
    }
    std::uint32_t at = 0;
    for (int i = 0; i < 12'000'000; ++i) {
        at = next[at];
    }
    return at;
}

std::uint64_t run_syscall() {
    std::uint64_t sum = 0;
    for (int i = 0; i < 1'000'000; ++i) {
        sum += syscall(SYS_getppid) >= 0 ? 1 : 0;
    }
    return sum;
}
std::uint64_t run_zero() {
    const int from = open("/dev/zero", O_RDONLY), to = open("/dev/null", O_WRONLY);
    std::array<char, 4096> buffer{};
    std::uint64_t sum = 0;
    for (int i = 0; i < 300'000; ++i) {
        sum += static_cast<std::uint64_t>(read(from, buffer.data(), buffer.size()));
        sum += static_cast<std::uint64_t>(write(to, buffer.data(), buffer.size()));
    }
    close(from);
    close(to);
    return sum;
}

const char* g_self = nullptr;
std::uint64_t run_fork_exec() {
    std::uint64_t good = 0;
    for (int i = 0; i < 400; ++i) {
        const pid_t child = fork();
        if (child == 0) {
            execl(g_self, g_self, "--nothing", nullptr);
            _exit(1);
        }
        int status = 0;
        waitpid(child, &status, 0);
        good += status == 0 ? 1 : 0;
    }
    return good;
}
std::uint64_t run_pipe() {
    int ping[2], pong[2];
    if (pipe(ping) != 0 || pipe(pong) != 0) {
        return 0;
    }
    constexpr int kRounds = 50'000;
    char byte = 'x';
    const pid_t child = fork();
    if (child == 0) {
        for (int i = 0;
             i < kRounds && read(ping[0], &byte, 1) == 1 && write(pong[1], &byte, 1) == 1; ++i) {
        }
        _exit(0);
    }
    std::uint64_t good = 0;
    for (int i = 0; i < kRounds; ++i) {
        good += write(ping[1], &byte, 1) == 1 && read(pong[0], &byte, 1) == 1 ? 1 : 0;
    }
    waitpid(child, nullptr, 0);
    for (const int fd : {ping[0], ping[1], pong[0], pong[1]}) {
        close(fd);
    }
    return good;
}
std::uint64_t run_page_fault() {
    constexpr std::size_t kSize = 64 << 20;
    std::uint64_t sum = 0;
    for (int round = 0; round < 8; ++round) {
        void* area =
            mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        madvise(area, kSize, MADV_NOHUGEPAGE);
        auto* bytes = static_cast<volatile char*>(area);
        for (std::size_t at = 0; at < kSize; at += 4096) {
            bytes[at] = 1;
            sum += 1;
        }
        munmap(area, kSize);
    }
    return sum;
}
std::uint64_t run_mprotect() {
    constexpr std::size_t kSize = 16 * 4096;
    void* area = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    auto* bytes = static_cast<volatile char*>(area);
    std::uint64_t sum = 0;
    for (int i = 0; i < 60'000; ++i) {
        bytes[4096 * (i & 15)] = 1;
        sum += mprotect(area, kSize, PROT_READ) == 0 ? 1 : 0;
        sum += static_cast<std::uint64_t>(bytes[4096 * (i & 15)]);
        sum += mprotect(area, kSize, PROT_READ | PROT_WRITE) == 0 ? 1 : 0;
    }
    munmap(area, kSize);
    return sum;
}

// Memory, branches and arithmetic: a loop of nothing but registers, each result waiting for the
// last, takes any emulator as long as the processor itself.
void* spin_thread(void* result) {
    constexpr std::size_t kCounters = 4096;
    std::vector<std::uint64_t> counters(kCounters);
    std::uint64_t state = 42, sum = 0;
    for (int i = 0; i < 100'000'000; ++i) {
        std::uint64_t& counter = counters[next_random(state) % kCounters];
        counter += static_cast<std::uint64_t>(i);
        if ((counter & 7) != 0) {
            sum ^= counters[(state >> 32U) % kCounters] + (counter << 3U);
        } else {
            sum += counter;
        }
    }
    *static_cast<std::uint64_t*>(result) = state + sum;
    return nullptr;
}
std::uint64_t run_threads(int count) {
    std::vector<pthread_t> threads(static_cast<std::size_t>(count));
    std::vector<std::uint64_t> results(threads.size());
    for (std::size_t i = 0; i < threads.size(); ++i) {
        pthread_create(&threads[i], nullptr, spin_thread, &results[i]);
    }
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < threads.size(); ++i) {
        pthread_join(threads[i], nullptr);
        sum += results[i] == results[0] ? 1 : 0;
    }
    return sum;
}
std::uint64_t run_thread1() {
    return run_threads(1);
}
std::uint64_t run_thread2() {
    return run_threads(2);
}

/// A user-mode JIT: writes a function, calls it, rewrites it.
std::uint64_t run_jit() {
    auto* code = static_cast<std::uint8_t*>(mmap(nullptr, 65536, PROT_READ | PROT_WRITE | PROT_EXEC,
                                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::uint64_t sum = 0;
    for (std::uint32_t i = 0; i < 300'000; ++i) {
        std::uint8_t* at = code + (i & 63) * 256;
        at[0] = 0xb8;  // mov eax, i
        std::memcpy(at + 1, &i, 4);
        at[5] = 0xc3;  // ret
        // SAFETY: the bytes just written are a function of this type.
        auto* function = reinterpret_cast<std::uint32_t (*)()>(at);
        for (int call = 0; call < 20; ++call) {
            sum += function();
        }
    }
    munmap(code, 65536);
    return sum;
}

struct Workload {
    std::string_view name;
    std::uint64_t (*run)();
};
constexpr Workload kWorkloads[] = {
    {"fib", run_fib},
    {"indirect", run_indirect},
    {"sieve", run_sieve},
    {"qsort", run_qsort},
    {"nbody", run_nbody},
    {"sse2_matrix", run_sse2_matrix},
    {"avx2_matrix", run_avx2_matrix},
    {"x87", run_x87},
    {"memcpy", run_memcpy},
    {"bigcopy", run_bigcopy},
    {"rep_stos", run_rep_stos},
    {"chase", run_chase},
    {"syscall", run_syscall},
    {"zero", run_zero},
    {"fork_exec", run_fork_exec},
    {"pipe", run_pipe},
    {"page_fault", run_page_fault},
    {"mprotect", run_mprotect},
    {"jit", run_jit},
    {"thread1", run_thread1},
    {"thread2", run_thread2},
};

bool run_named(std::string_view name) {
    for (const Workload& workload : kWorkloads) {
        if (workload.name == name || name == "all") {
            const double start = now();
            const std::uint64_t check = workload.run();
            std::printf("BENCH %.*s %.6f %016llx\n", static_cast<int>(workload.name.size()),
                        workload.name.data(), now() - start,
                        static_cast<unsigned long long>(check));
            std::fflush(stdout);
            if (name != "all") {
                return true;
            }
        }
    }
    return name == "all";
}

}  // namespace

int main(int argc, char** argv) {
    g_self = argv[0];
    if (argc > 1 && std::string_view(argv[1]) == "--nothing") {
        return 0;
    }
    if (argc > 2 && std::string_view(argv[1]) == "--serve") {
        return guestbench::serve(argv[2]);
    }
    for (int i = 1; i < argc; ++i) {
        if (!run_named(argv[i])) {
            std::fprintf(stderr, "guestbench: no workload '%s'\n", argv[i]);
            return 2;
        }
    }
    if (argc == 1) {
        for (const Workload& workload : kWorkloads) {
            std::printf("%.*s\n", static_cast<int>(workload.name.size()), workload.name.data());
        }
    }
    return 0;
}
