// DirectRunner: which stub, and what it has mapped.
#include <utility>

#include <sys/random.h>

#include "arch/x86/cpu_model.h"
#include "arch/x86/registers.h"
#include "base/log.h"
#include "engine/soft/direct/direct_runner.h"
#include "engine/soft/direct/guest_tables.h"
#include "engine/soft/direct/page_scan.h"
#include "engine/soft/mmu/mmu_state.h"
#include "engine/soft/runtime/soft_vm.h"

namespace strata::engine::soft {
namespace {

namespace x86 = arch::x86;

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kRoot = 0x000ffffffffff000;  // of CR3
constexpr std::uint64_t kLowest = 0x10000;           // below, the host refuses to map
constexpr std::uint64_t kHighest = 0x7fffffffe000;   // the host's last page of user addresses
constexpr std::uint64_t kRegionBytes = ShadowMap::kLeafPages * kPage, kHugeBytes = 1U << 30U;
constexpr std::uint64_t kNeighbourRuns = 24;   // mappings that a fault makes beside its own
constexpr std::uint32_t kNeighbourScans = 16;  // of them, pages whose code has to be looked at
constexpr std::uint64_t kMostRuns = 30'000;    // the host allows 65530 mappings
constexpr std::size_t kSpareLeaves = 2048;     // of the VM's vCPUs together
constexpr std::uint64_t kIdleUs = 5'000'000;
constexpr std::uint32_t kSameFaults = 4;
constexpr std::uint64_t kOrderNs = 4000,
                        kMappingNs = 5000;  // of the helper's time: being woken, each mapping

std::uint64_t host_xcr0() {
    static const std::uint64_t kHost = [] {
        std::uint32_t low = 0, high = 0;
        __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return (static_cast<std::uint64_t>(high) << 32U) | low;
    }();
    return kHost;
}

// For pages that were looked at before: programs start again and again. Who makes two alike gains
// what page_scan.h says that deceiving it gains.
std::uint64_t page_hash(std::span<const std::uint8_t> bytes, std::uint64_t foreign) {
    constexpr std::uint64_t kFactor = 0x9e3779b97f4a7c15;
    std::uint64_t hash = bytes.size() ^ (foreign << 16U);
    for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
        std::uint64_t word = 0;
        __builtin_memcpy(&word, bytes.data(), 8);
        hash = (hash ^ word) * kFactor;
        hash ^= hash >> 32U;
    }
    for (const std::uint8_t byte : bytes) {
        hash = (hash ^ byte) * kFactor;
    }
    return hash ^ (hash >> 29U);
}

}  // namespace

// An address for a new stub's area, far from anything that the current address space has; 0: none
// found. The stub begins as a copy of this program, so it must be far from that, too: from what
// Linux maps (programs, heaps and libraries are above 0x550000000000), and from what sanitizers do
// (shadows end at 0x100080000000, AddressSanitizer's heap begins at 0x600000000000).
std::uint64_t DirectRunner::find_base() const {
    constexpr std::uint64_t kFrom = 0x110000000000, kBytes = 0x430000000000;
    for (int attempt = 0; attempt < 16; ++attempt) {
        std::uint64_t random = 0;
        if (getrandom(&random, sizeof random, 0) != sizeof random) {
            return 0;
        }
        const std::uint64_t base = kFrom + random % kBytes / kRegionBytes * kRegionBytes;
        if (GuestRegion(cpu_, base).empty()) {
            return base;
        }
    }
    return 0;
}

void DirectRunner::discard(Stub& stub) {
    for (auto& place : stubs_) {
        if (place.get() == &stub) {
            place.reset();
            return;
        }
    }
}

std::uint64_t DirectRunner::pcid() const {
    return (cpu_.cr4 & x86::cr4::kPcide) != 0 ? cpu_.cr3 & 0xfff : 0;
}

std::uint64_t DirectRunner::flushes_now() const {
    return events_->flushes_all + events_->flushes[pcid() % DirectEvents::kPcids];
}

// By the page tables alone: a kernel gives one process different PCIDs in the course of time.
DirectRunner::Stub* DirectRunner::current_stub() const {
    for (const auto& stub : stubs_) {
        if (stub != nullptr && stub->root == (cpu_.cr3 & kRoot)) {
            return stub.get();
        }
    }
    return nullptr;
}

DirectRunner::Stub* DirectRunner::stub_for_space() {
    const std::uint64_t time = __builtin_ia32_rdtsc();
    Stub* stub = current_stub();
    for (auto& place : stubs_) {
        if (place != nullptr && place.get() != stub && time > place->last_use &&
            time - place->last_use > kIdleUs * cycles_per_us_) {
            place.reset();
        }
    }
    if (stub == nullptr) {
        stub = unusable_ ? nullptr : take_stub();
        if (stub == nullptr) {
            return nullptr;
        }
        stub->root = cpu_.cr3 & kRoot;
        stub->pcid = pcid();
        stub->flushes = flushes_now();
        stub->head = events_->head;
        stub->writable.assign(cpu_.vm->ram->size() / kPage, false);
        stub->faulted = 0;
        stub->window = {.cpu = stub->process->cpu_time()};
    }
    stub->last_use = time;
    return stub;
}

// A new stub, or the one that was not used for longest, emptied.
DirectRunner::Stub* DirectRunner::take_stub() {
    std::unique_ptr<Stub>* oldest = &stubs_[0];
    for (auto& place : stubs_) {
        if (place == nullptr) {
            oldest = &place;
            break;
        }
        oldest = place->last_use < (*oldest)->last_use ? &place : oldest;
    }
    if (*oldest != nullptr) {
        Stub& stub = **oldest;
        const std::uint64_t base = stub.process->base(), end = base + sizeof(StubArea);
        const StubMap everything[2] = {{0, base, 0, 0, 0}, {end, kHighest + kPage - end, 0, 0, 0}};
        stub.map.clear();
        stub.large.clear();
        stub.huge.clear();
        if (GuestRegion(cpu_, base).empty() && stub.process->apply(everything)) {
            counters_.recycled.fetch_add(1, std::memory_order_relaxed);
            return &stub;
        }
        oldest->reset();
    }
    const std::uint64_t base = find_base();
    if (base == 0) {
        return nullptr;
    }
    auto made = StubProcess::create(zygote_, base);
    if (!made) {
        log::info("guest user code stays with the translator: {}", made.error().text());
        unusable_ = true;
        return nullptr;
    }
    counters_.stubs.fetch_add(1, std::memory_order_relaxed);
    *oldest = std::make_unique<Stub>();
    (*oldest)->process = std::move(made).value();
    return oldest->get();
}

// Regions that this vCPU's stubs may have mapped together: as many as the RAM has, and some for
// address spaces that lie thinly. Each costs 2 KiB here and up to 8 KiB of the host's page tables.
// False: this stub alone has more.
bool DirectRunner::keep_within_budget(const Stub& stub) {
    const std::size_t most =
        cpu_.vm->ram->size() / kRegionBytes + kSpareLeaves / cpu_.vm->cpus().size();
    for (;;) {
        std::size_t leaves = 0;
        std::unique_ptr<Stub>* oldest = nullptr;
        for (auto& place : stubs_) {
            leaves += place != nullptr ? place->map.leaves() : 0;
            if (place != nullptr && place.get() != &stub &&
                (oldest == nullptr || place->last_use < (*oldest)->last_use)) {
                oldest = &place;
            }
        }
        if (leaves <= most || oldest == nullptr) {
            return leaves <= most;
        }
        oldest->reset();
    }
}

bool DirectRunner::bring_up_to_date(Stub& stub) {
    if (!GuestRegion(cpu_, stub.process->base()).empty() || stub.map.runs() > kMostRuns ||
        !keep_within_budget(stub)) {
        discard(stub);
        return false;
    }
    const std::uint64_t flushes = flushes_now();
    bool all = flushes != stub.flushes || pcid() != stub.pcid ||
               events_->head - stub.head > DirectEvents::kRing;
    for (std::uint64_t i = stub.head; i != events_->head && !all; ++i) {
        const std::uint64_t event = events_->ring[i % DirectEvents::kRing];
        if ((event & DirectEvents::kRamPage) != 0) {
            all = stub.writable[event / kPage];
        } else {
            all = validate_flushed(stub, event / kPage);
        }
    }
    const bool stays = !all || validate(stub);
    stub.flushes = flushes;
    stub.pcid = pcid();
    stub.head = events_->head;
    if (!stays) {
        forget_space(*events_, current_space(cpu_));
        if (!events_->always) {
            return false;
        }
    }
    const std::uint64_t began = __builtin_ia32_rdtsc();
    map_after_fault(stub);
    const bool good = apply(stub);
    mapping_cost_ += flipped_ ? 0 : (__builtin_ia32_rdtsc() - began) * 1000 / cycles_per_us_;
    flipped_ = false;
    return good;
}

bool DirectRunner::apply(Stub& stub) {
    if (!stub.map.changed()) {
        return true;
    }
    const std::vector<StubMap> orders = stub.map.take_orders();
    counters_.orders.fetch_add(orders.size(), std::memory_order_relaxed);
    const bool done = stub.process->apply(orders);
    stub.window.own += kOrderNs + kMappingNs * orders.size();
    if (done) {
        return true;
    }
    discard(stub);
    return false;
}

// The one place where mappings are chosen. Another processor may change the tables at any moment,
// so what was seen of the area's surroundings before does not count.
void DirectRunner::set_page(Stub& stub, std::uint64_t page, ShadowPage entry) {
    if (stub.process->owns(page * kPage)) {
        return;
    }
    if ((entry.rights() & ShadowPage::kWrite) != 0) {
        stub.writable[entry.ram_page()] = true;
    }
    stub.map.set(page, entry);
}

// Before pages of a region are mapped. Large pages are remembered: one INVLPG is for all of one.
void DirectRunner::note_size(Stub& stub, const GuestRegion& region, std::uint64_t linear) {
    if (region.large()) {
        stub.large.insert(linear / kRegionBytes);
    }
    if (region.huge()) {
        stub.huge.insert(linear / kHugeBytes);
    }
}

// INVLPG of the page's address. True: everything has to be looked at.
bool DirectRunner::validate_flushed(Stub& stub, std::uint64_t page) {
    if (stub.huge.contains(page * kPage / kHugeBytes)) {
        return true;
    }
    const std::uint64_t number = page / ShadowMap::kLeafPages;
    if (stub.large.contains(number)) {
        if (ShadowMap::Leaf* leaf = stub.map.leaf(number); leaf != nullptr) {
            validate_leaf(stub, number * ShadowMap::kLeafPages, *leaf);
        }
    } else if (const ShadowPage old = stub.map.at(page); old.mapped()) {
        const GuestRegion region(cpu_, page * kPage);
        note_size(stub, region, page * kPage);
        set_page(stub, page, wanted(page * kPage, region, old, MemAccess::Read, true));
    }
    return false;
}

// How many pages are still where they were.
std::uint64_t DirectRunner::validate_leaf(Stub& stub, std::uint64_t first, ShadowMap::Leaf& leaf) {
    stub.large.erase(first / ShadowMap::kLeafPages);
    const GuestRegion region(cpu_, first * kPage);
    note_size(stub, region, first * kPage);
    std::uint64_t kept = 0;
    for (std::uint64_t i = 0; i < ShadowMap::kLeafPages; ++i) {
        if (const ShadowPage old = leaf[i]; old.mapped()) {
            const ShadowPage entry = wanted((first + i) * kPage, region, old, MemAccess::Read);
            kept += entry.mapped() && entry.ram_page() == old.ram_page() ? 1 : 0;
            set_page(stub, first + i, entry);
        }
    }
    return kept;
}

// Everything that is mapped, against the guest's tables as they are now. Nothing is gained here,
// only lost or moved. False: nothing is where it was, so the process has ended, and another has its
// page tables.
bool DirectRunner::validate(Stub& stub) {
    counters_.validations.fetch_add(1, std::memory_order_relaxed);
    stub.writable.assign(stub.writable.size(), false);
    stub.large.clear();
    stub.huge.clear();
    const bool had = stub.map.pages() != 0;
    std::uint64_t kept = 0;
    stub.map.for_each_leaf([&](std::uint64_t first, ShadowMap::Leaf& leaf) {
        kept += validate_leaf(stub, first, leaf);
    });
    stub.map.drop_empty();
    return !had || kept != 0;
}

// The bytes of a page, and what lies before and behind it in the address space.
bool DirectRunner::scan(std::uint64_t linear, std::uint64_t ram_page) {
    std::uint8_t bytes[kScanBefore + kPageBytes + kScanReach];
    const memory::GuestRam& ram = *cpu_.vm->ram;
    const auto copy = [&](std::uint64_t address, std::size_t from, std::size_t count,
                          std::uint8_t* to) {
        const GuestPage page =
            GuestRegion(cpu_, address).page(address / kPage % ShadowMap::kLeafPages);
        if (!page.present) {
            return false;
        }
        __builtin_memcpy(to, ram.base() + page.ram_page * kPage + from, count);
        return true;
    };
    const std::uint64_t start = linear & ~(kPage - 1);
    __builtin_memcpy(bytes + kScanBefore, ram.base() + ram_page * kPage, kPageBytes);
    const bool before = copy(start - kPage, kPage - kScanBefore, kScanBefore, bytes);
    const bool behind = copy(start + kPage, 0, kScanReach, bytes + kScanBefore + kPageBytes);
    const std::size_t skipped = before ? 0 : kScanBefore;
    const std::span<const std::uint8_t> all(bytes, sizeof bytes - (behind ? 0 : kScanReach));
    const std::uint64_t foreign = foreign_components(cpu_.xcr0, host_xcr0());
    const std::uint64_t hash = page_hash(all.subspan(skipped), foreign);
    return scanned_.runs_natively(hash, [&] {
        counters_.scans.fetch_add(1, std::memory_order_relaxed);
        const bool runs = page_runs_natively(all.subspan(skipped), kScanBefore - skipped, foreign);
        counters_.sensitive_pages.fetch_add(runs ? 0 : 1, std::memory_order_relaxed);
        return runs;
    });
}

// What the page of `linear` may be mapped as, being `now`, for an access of this kind. `flushed`: a
// flush of just this page says that the guest has changed something about it.
ShadowPage DirectRunner::wanted(std::uint64_t linear, const GuestRegion& region, ShadowPage now,
                                MemAccess access, bool flushed) {
    const GuestPage page = region.page(linear / kPage % ShadowMap::kLeafPages);
    if (!page.present) {
        return {};
    }
    const auto& flags = cpu_.vm->ram->page_flags(page.ram_page);
    const bool writable =
        page.writable && (flags.load(std::memory_order_acquire) & memory::PageFlags::kCode) == 0;
    const bool same = now.mapped() && now.ram_page() == page.ram_page;
    const bool runs = same && (now.rights() & ShadowPage::kExecute) != 0 && page.executable;
    if (writable && access != MemAccess::Execute && (access == MemAccess::Write || !runs)) {
        return {page.ram_page, ShadowPage::kRead | ShadowPage::kWrite};
    }
    // What was mapped without the right to execute is looked at again only when it is executed.
    // What had it may have been written since, by the translator's user code, and be others' code
    // now.
    const bool known = runs && !flushed && !page.dirty;
    const bool look = access == MemAccess::Execute || !now.mapped() || runs;
    if (known || (page.executable && look && scan(linear, page.ram_page))) {
        return {page.ram_page, ShadowPage::kRead | ShadowPage::kExecute};
    }
    return {page.ram_page, ShadowPage::kRead};
}

// User code writes to a page that blocks were made from: mostly the blocks are of somebody who had
// the page before. True: they are gone.
bool DirectRunner::forget_code(const GuestPage& page) {
    if (!page.writable || cpu_.vm->code == nullptr) {
        return false;
    }
    cpu_.vm->code->invalidate(&cpu_, page.ram_page * kPage, kPage);
    return (cpu_.vm->ram->page_flags(page.ram_page).load(std::memory_order_acquire) &
            memory::PageFlags::kCode) == 0;
}

DirectRunner::Fault DirectRunner::map_fault(Stub& stub, std::uint64_t linear, MemAccess access) {
    if (!check_canonical(cpu_, linear)) {
        cpu_.exception = {};
        return Fault::Refused;  // only a forged report says so
    }
    PageWalk walk;
    const bool granted = walk_page_tables(cpu_, linear, access, Rights::User, walk);
    if (linear < kLowest || linear >= kHighest || stub.process->owns(linear)) {
        return granted ? Fault::Refused : Fault::Exception;
    }
    if (!granted) {
        stub.faulted = linear;
        stub.fault_access = access;
        return Fault::Exception;
    }
    const GuestRegion region(cpu_, linear);
    const std::uint64_t page = linear / kPage;
    // An instruction that writes to its own page needs both rights at once: never in a stub.
    constexpr std::uint64_t kLongest = 14;
    if (access == MemAccess::Write &&
        (page == cpu_.rip / kPage || page == (cpu_.rip + kLongest) / kPage)) {
        return Fault::Refused;
    }
    const ShadowPage old = stub.map.at(page);
    ShadowPage entry = wanted(linear, region, old, access);
    if (access == MemAccess::Write && (entry.rights() & ShadowPage::kWrite) == 0 &&
        forget_code(region.page(page % ShadowMap::kLeafPages))) {
        entry = wanted(linear, region, stub.map.at(page), access);
    }
    const std::uint32_t needed = access == MemAccess::Write     ? ShadowPage::kWrite
                                 : access == MemAccess::Execute ? ShadowPage::kExecute
                                                                : ShadowPage::kRead;
    if ((entry.rights() & needed) == 0) {
        return Fault::Refused;
    }
    counters_.mapping_faults.fetch_add(1, std::memory_order_relaxed);
    same_faults_ = page == last_fault_ ? same_faults_ + 1 : 0;
    last_fault_ = page;
    if (same_faults_ > kSameFaults && stub.map.at(page) == entry) {
        stub.map.set(page, {});  // it is not as the book says: once more
    }
    flipped_ =
        old.mapped() && old.ram_page() == entry.ram_page() && (old.rights() & ~entry.rights()) != 0;
    stub.window.flips += flipped_ ? 1U : 0U;
    note_size(stub, region, linear);
    set_page(stub, page, entry);
    map_neighbours(stub, region, linear);
    return Fault::Mapped;
}

// The guest's kernel has served a fault: mostly the page is there now, and the stub would come back
// at once for its mapping.
void DirectRunner::map_after_fault(Stub& stub) {
    const std::uint64_t linear = std::exchange(stub.faulted, 0), page = linear / kPage;
    if (linear == 0) {
        return;
    }
    const GuestRegion region(cpu_, linear);
    const ShadowPage old = stub.map.at(page);
    const ShadowPage entry = wanted(linear, region, old, stub.fault_access);
    if (entry.mapped() && entry != old) {
        note_size(stub, region, linear);
        set_page(stub, page, entry);
        map_neighbours(stub, region, linear);
    }
}

void DirectRunner::map_neighbours(Stub& stub, const GuestRegion& region, std::uint64_t linear) {
    const std::uint64_t page = linear / kPage;
    const std::uint64_t first = page / ShadowMap::kLeafPages * ShadowMap::kLeafPages,
                        end = first + ShadowMap::kLeafPages;
    const std::uint64_t pages = stub.map.pages(), most = stub.map.runs() + kNeighbourRuns,
                        scans = counters_.scans.load(std::memory_order_relaxed) + kNeighbourScans;
    const auto map = [&](std::uint64_t at) {
        const ShadowPage old = stub.map.at(at);
        if (!old.mapped() && at * kPage >= kLowest && at * kPage < kHighest) {
            set_page(stub, at, wanted(at * kPage, region, old, MemAccess::Read));
        }
        return stub.map.runs() < most && counters_.scans.load(std::memory_order_relaxed) < scans;
    };
    // Upwards first: that is where programs go on.
    for (std::uint64_t at = page + 1; at < end && map(at); ++at) {
    }
    for (std::uint64_t at = page; at > first && map(at - 1); --at) {
    }
    counters_.pages_mapped.fetch_add(stub.map.pages() - pages + 1, std::memory_order_relaxed);
}

}  // namespace strata::engine::soft
