// TinyInit: the only program of the small Linux that the soak boots: checks a few things from user mode, says what it found, powers off.
//
// Freestanding (no libc, so nothing but these instructions runs). Each check prints one line; the last line is "tiny: passed" or "tiny: FAILED".
typedef unsigned long word;

enum { kRead = 0, kWrite = 1, kOpen = 2, kClose = 3, kNanosleep = 35, kGetpid = 39, kFork = 57, kExit = 60, kWait4 = 61, kMkdir = 83, kMount = 165,
       kReboot = 169, kClockGettime = 228 };
enum { kSigTrap = 5, kSigFpe = 8, kSigSegv = 11 };

static int failures;

static long call(long number, word a, word b, word c, word d) {
    long result;
    register word r10 __asm__("r10") = d;
    register word r8 __asm__("r8") = 0;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
    return result;
}

static word length(const char* text) {
    word count = 0;
    while (text[count] != 0) {
        ++count;
    }
    return count;
}

static void say(const char* text) { (void)call(kWrite, 1, (word)text, length(text), 0); }

static void check(int holds, const char* what) {
    say(holds ? "tiny: ok " : "tiny: FAILED ");
    say(what);
    say("\n");
    failures += holds ? 0 : 1;
}

// Prints a file of /proc or /sys after its name; 0 if it cannot be read.
static int show(const char* path) {
    char text[256];
    const long file = call(kOpen, (word)path, 0, 0, 0);
    const long got = file < 0 ? file : call(kRead, (word)file, (word)text, sizeof(text) - 1, 0);
    if (file >= 0) {
        (void)call(kClose, (word)file, 0, 0, 0);
    }
    if (got <= 0) {
        return 0;
    }
    text[got] = 0;
    say("tiny: ");
    say(path);
    say(" ");
    say(text);
    return 1;
}

static void trap(void) { __asm__ volatile("int3"); }
static void fault(void) { *(volatile int*)16 = 1; }
static void divide(void) {
    __asm__ volatile("xor %%ecx, %%ecx; xor %%edx, %%edx; mov $1, %%eax; div %%ecx" : : : "eax", "ecx", "edx");
}

// A child that does `work`: the signal that ends it, 0 if none.
static int signal_of(void (*work)(void)) {
    const long child = call(kFork, 0, 0, 0, 0);
    if (child == 0) {
        work();
        (void)call(kExit, 0, 0, 0, 0);
    }
    int status = -1;
    if (child < 0 || call(kWait4, (word)child, (word)&status, 0, 0) != child) {
        return -1;
    }
    return status & 0x7f;
}

// A child's own copy of a page must not be seen here.
static int copies_on_write(void) {
    static volatile int shared = 1;
    const long child = call(kFork, 0, 0, 0, 0);
    if (child == 0) {
        shared = 2;
        (void)call(kExit, (word)shared, 0, 0, 0);
    }
    int status = 0;
    return call(kWait4, (word)child, (word)&status, 0, 0) == child && (status >> 8 & 0xff) == 2 && shared == 1;
}

// Values in vector and x87 registers across system calls, which may lead to another process and back.
static int keeps_vectors(void) {
    double root = 0;
    double pi = 0;
    long ignored;
    __asm__ volatile(
        "fldpi\n\t"
        "movq %4, %%xmm9\n\t"
        "sqrtsd %%xmm9, %%xmm9\n\t"
        "syscall\n\t"
        "movsd %%xmm9, %1\n\t"
        "fstpl %2"
        : "=a"(ignored), "=m"(root), "=m"(pi)
        : "0"((long)kGetpid), "r"(2.25)
        : "rcx", "r11", "xmm9", "memory");
    return root == 1.5 && pi > 3.14159265 && pi < 3.14159266;
}

struct time {
    long seconds;
    long nanoseconds;
};

static int sleeps(void) {
    struct time before = {0, 0};
    struct time after = {0, 0};
    const struct time wanted = {0, 200000000};
    (void)call(kClockGettime, 1, (word)&before, 0, 0);
    (void)call(kNanosleep, (word)&wanted, 0, 0, 0);
    (void)call(kClockGettime, 1, (word)&after, 0, 0);
    const long passed = (after.seconds - before.seconds) * 1000000000 + after.nanoseconds - before.nanoseconds;
    return passed >= wanted.nanoseconds && passed < 30000000000;
}

// The kernel enters with an aligned stack, without a return address on it.
__attribute__((force_align_arg_pointer, noreturn)) void _start(void) {
    say("tiny: init reached\n");
    (void)call(kMkdir, (word) "/proc", 0755, 0, 0);
    (void)call(kMkdir, (word) "/sys", 0755, 0, 0);
    check(call(kMount, (word) "proc", (word) "/proc", (word) "proc", 0) == 0, "mount of /proc");
    check(call(kMount, (word) "sysfs", (word) "/sys", (word) "sysfs", 0) == 0, "mount of /sys");
    check(show("/proc/uptime"), "uptime");
    check(show("/sys/devices/system/cpu/online"), "processors online");
    check(show("/sys/devices/system/clocksource/clocksource0/current_clocksource"), "clock source");
    check(copies_on_write(), "copy on write");
    check(signal_of(trap) == kSigTrap, "int3 is SIGTRAP");
    check(signal_of(fault) == kSigSegv, "a stray write is SIGSEGV");
    check(signal_of(divide) == kSigFpe, "a division by zero is SIGFPE");
    check(keeps_vectors(), "vector and x87 registers");
    check(sleeps(), "nanosleep and the monotonic clock");
    say(failures == 0 ? "tiny: passed\n" : "tiny: FAILED\n");
    (void)call(kReboot, 0xfee1dead, 672274793, 0x4321fedc, 0);
    for (;;) {
        (void)call(kExit, 1, 0, 0, 0);
    }
}
