// Qcow2Node: persistent dirty bitmaps.
#include "block/formats/qcow2/qcow2.h"

namespace strata::block::qcow2 {

Task<> Qcow2Node::store_bitmaps() {
    STRATA_CO_TRY_VOID(co_await bitmaps_.store());
    STRATA_CO_TRY_VOID(co_await write_header());
    bitmaps_.release_old();
    co_return ok();
}

Task<std::vector<BitmapInfo>> Qcow2Node::bitmaps() {
    if (header().version < 3) {
        co_return lacks("bitmaps in version 2");
    }
    co_return bitmaps_.list();
}

Task<Bitmap> Qcow2Node::read_bitmap(std::string name) {
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    co_return co_await bitmaps_.read(std::move(name));
}

Task<> Qcow2Node::store_bitmap(Bitmap bitmap) {
    STRATA_CO_TRY_VOID(check_range(0, 0, true));
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    STRATA_CO_TRY_VOID(bitmaps_.put(std::move(bitmap)));
    STRATA_CO_TRY_VOID(co_await store_bitmaps());
    co_return co_await metadata_->settle();
}

Task<> Qcow2Node::remove_bitmap(std::string name) {
    STRATA_CO_TRY_VOID(check_range(0, 0, true));
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    STRATA_CO_TRY_VOID(bitmaps_.remove(name));
    STRATA_CO_TRY_VOID(co_await store_bitmaps());
    co_return co_await metadata_->settle();
}

InfoField Qcow2Node::bitmap_info() const {
    std::vector<std::vector<InfoField>> all;
    for (const BitmapInfo& each : bitmaps_.list()) {
        std::vector<std::string> flags;
        if (each.in_use) {
            flags.emplace_back("in-use");
        }
        if (each.automatic) {
            flags.emplace_back("auto");
        }
        all.push_back(
            {{"flags", "flags", std::move(flags)},
             {"name", "name", each.name},
             {"granularity", "granularity", static_cast<std::int64_t>(each.granularity)}});
    }
    return {"bitmaps", "bitmaps", std::move(all)};
}

}  // namespace strata::block::qcow2
