// KvmFd: the ioctls of /dev/kvm's file descriptors (system, VM, vCPU), with errors that name what
// was asked.
#pragma once

#include <linux/stddef.h>
// In C++ the kernel's macro of 6.1 puts an empty structure, which has a size there, before flexible
// arrays: sizes, offsets and thus ioctl numbers come out wrong. Checked below.
#undef __DECLARE_FLEX_ARRAY
// NOLINTNEXTLINE(bugprone-reserved-identifier)
#define __DECLARE_FLEX_ARRAY(type, name) type name[0]
#include <cerrno>
#include <cstdint>
#include <string_view>
#include <vector>

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "arch/x86/cpuid.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace strata::engine::kvm {

static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8 && sizeof(kvm_msr_list) == 4);
static_assert(sizeof(kvm_irq_routing) == 8 && sizeof(kvm_xsave) == 4096);

/// One of KVM's file descriptors. Thread-safe as the kernel is: system and VM calls from any
/// thread, vCPU calls from its own.
class KvmFd {
  public:
    KvmFd() = default;
    explicit KvmFd(UniqueFd fd) : fd_(std::move(fd)) {}

    /// An ioctl that takes a number; answers what the kernel did (0 or more).
    Result<int> call(unsigned long request, std::uint64_t argument, std::string_view what) const {
        // SAFETY: `request` takes an integer; the kernel reads no memory through it.
        const int answer = ::ioctl(fd_.get(), request, argument);
        return answer < 0 ? Result<int>(Error::from_errno(what, errno)) : Result<int>(answer);
    }
    /// An ioctl that takes a structure.
    template <typename T>
    Result<int> call(unsigned long request, T* argument, std::string_view what) const {
        // SAFETY: the caller pairs `request` with the structure that <linux/kvm.h> declares for it.
        const int answer = ::ioctl(fd_.get(), request, argument);
        return answer < 0 ? Result<int>(Error::from_errno(what, errno)) : Result<int>(answer);
    }
    /// KVM_CHECK_EXTENSION: 0 if the kernel lacks `capability`.
    [[nodiscard]] int extension(int capability) const {
        const int answer =
            ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability));
        return answer < 0 ? 0 : answer;
    }
    [[nodiscard]] int get() const { return fd_.get(); }

  private:
    UniqueFd fd_;
};

/// Storage for the kernel's structures that end in an array of unknown length (kvm_cpuid2, kvm_msrs
/// …): `Head` followed by `count` of `Item`.
template <typename Head, typename Item>
class WithTail {
  public:
    explicit WithTail(std::size_t count) : words_((sizeof(Head) + count * sizeof(Item) + 7) / 8) {}
    // SAFETY: the storage is zeroed, aligned to 8 and as long as head and items together; all are
    // plain integers.
    [[nodiscard]] Head* head() { return reinterpret_cast<Head*>(words_.data()); }
    [[nodiscard]] Item* items() {
        return reinterpret_cast<Item*>(reinterpret_cast<char*>(words_.data()) + sizeof(Head));
    }

  private:
    std::vector<std::uint64_t> words_;
};

/// More than any processor has.
inline constexpr std::size_t kMaxCpuidEntries = 256;

inline arch::x86::CpuidEntry from_kvm(const kvm_cpuid_entry2& entry) {
    return {entry.function,
            entry.index,
            (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0,
            {entry.eax, entry.ebx, entry.ecx, entry.edx}};
}

}  // namespace strata::engine::kvm
