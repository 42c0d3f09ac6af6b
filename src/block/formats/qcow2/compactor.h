// Compactor: packs a qcow2 file: what lies behind the place where the file could end moves into
// free clusters before it, and the file is cut.
//
// The image is at rest meanwhile, so what a cluster holds stays valid at its old place until
// nothing refers to that any more. Each step: the copy and its refcount | FLUSH | the references,
// where they are | FLUSH | the old place's refcount falls. References lie within one sector each,
// and each says the same before and after, whichever of them a crash leaves; it leaves leaks at
// worst, which the next call takes back first, going on with what is left to move. A cluster that
// several tables name gets all its references at once at the new place, and its old one goes when
// the last table was changed. The file is cut when nothing is left behind the cut and the counts
// say so durably.
#pragma once

#include <cstdint>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/endian.h"
#include "block/aligned_buffer.h"
#include "block/compact.h"
#include "block/formats/qcow2/qcow2.h"

namespace strata::block::qcow2 {

class Compactor {
  public:
    Compactor(Qcow2Node& node, CompactWatch watch);
    /// Answers how many bytes were moved.
    Task<std::uint64_t> run();

  private:
    /// References that a cluster loses.
    struct Reference {
        std::uint64_t host = 0, count = 0;
    };
    /// Clusters side by side that one table names in its entries side by side.
    struct Run {
        std::size_t entry = 0, count = 1;
        std::uint64_t host = 0, guest = 0;
    };
    [[nodiscard]] std::uint64_t cluster() const { return meta_.header().cluster(); }
    [[nodiscard]] bool behind(std::uint64_t host) const { return host / cluster() >= limit_; }
    Task<> mend_leaks();
    Task<> renew_bitmaps();
    Task<std::uint64_t> survey();
    Task<Allocation> take(std::uint64_t wanted);
    Task<std::uint64_t> take_row(std::uint64_t clusters);
    Task<> pass();
    // Tables (compactor_tables.cc)
    Task<> copy_row(std::uint64_t from, std::uint64_t to, std::uint64_t bytes);
    Task<> move_snapshots();
    Task<> move_l1();
    Task<> move_refcount_table();
    Task<> move_refcount_blocks();
    Task<> move_l2_tables();
    Task<> move_l2_of(std::vector<std::uint64_t>& l1, std::set<std::size_t>& changed);
    Task<> drop_blocks(std::size_t first);
    Task<> cut();
    // Data
    Task<std::vector<std::pair<std::uint64_t, std::uint64_t>>> all_l1_tables();
    Task<> move_data();
    Task<> move_data_of(std::uint64_t table, std::uint64_t index);
    Task<std::size_t> move_entry(std::size_t entry, std::uint64_t index, std::uint64_t owners);
    Task<> drop_place(std::size_t entry, const Mapping& old, std::uint64_t owners);
    Task<std::size_t> move_run(Run run, std::uint64_t owners);
    Task<> move_shared(std::size_t entry, const Mapping& old, std::uint64_t guest,
                       std::uint64_t refs);
    Task<> move_packed(std::size_t entry, const Mapping& old, std::uint64_t owners);
    Task<std::uint64_t> take_packed(std::uint64_t bytes, std::uint64_t owners);
    Task<bool> count_more(std::uint64_t host, std::uint64_t bytes, std::uint64_t more);
    Task<> copy_data(std::uint64_t from, std::uint64_t to, std::uint64_t guest,
                     std::uint64_t clusters);
    Task<Run> extend(Run run, std::uint64_t owners);
    Task<> write_table(std::uint64_t table);
    Task<> let_go(std::vector<Reference> references);
    Task<> moved(std::uint64_t bytes);

    Qcow2Node& node_;
    Metadata& meta_;
    Node& file_;
    const CompactWatch watch_;
    std::uint64_t limit_ = 0;  ///< cluster where the file could end
    std::uint64_t moved_ = 0;
    Result<> stop_ = ok();         ///< an error: whoever watches wants no more
    bool again_ = false;           ///< something was freed that another pass could use
    std::vector<Be64> words_;      ///< the L2 table in work
    bool changed_ = false;         ///< it differs from the file
    bool active_ = false;          ///< the active disk names it
    std::vector<Reference> old_;   ///< its clusters' old places
    std::vector<Reference> late_;  ///< the same of what several tables name
    std::unordered_map<std::uint64_t, std::uint64_t> places_;  ///< of those: old place, new place
    AlignedBuffer buffer_;
};

}  // namespace strata::block::qcow2
