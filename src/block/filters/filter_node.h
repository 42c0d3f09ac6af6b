// FilterNode: a node that hands everything on to one child: what filters are made of, each
// overriding what it is about.
#pragma once

#include <utility>

#include "block/node.h"

namespace strata::block {

class FilterNode : public Node {
  public:
    explicit FilterNode(NodePtr child)
        : Node(child->loop(), child->name()), child_(std::move(child)) {}

    [[nodiscard]] std::uint64_t size() const override { return child_->size(); }
    [[nodiscard]] const NodeTraits& traits() const override { return child_->traits(); }
    [[nodiscard]] Node* file() const override { return child_.get(); }
    [[nodiscard]] Node* backing() const override { return child_->backing(); }
    [[nodiscard]] std::vector<Node*> children() const override { return {child_.get()}; }

    Task<> read(std::uint64_t offset, Buffers into) override { return child_->read(offset, into); }
    Task<> write(std::uint64_t offset, Buffers from) override {
        return child_->write(offset, from);
    }
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override {
        return child_->write_zeroes(offset, length, options);
    }
    Task<> discard(std::uint64_t offset, std::uint64_t length) override {
        return child_->discard(offset, length);
    }
    Task<> flush() override { return child_->flush(); }
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override {
        return child_->status(offset, length);
    }
    Task<> write_compressed(std::uint64_t offset, Buffers from) override {
        return child_->write_compressed(offset, from);
    }
    Task<> close() override { return child_->close(); }
    void note(NodeEvent event) override { child_->note(event); }

    Task<> resize(std::uint64_t size, Preallocation preallocation) override {
        return child_->resize(size, preallocation);
    }
    Task<> make_empty() override { return child_->make_empty(); }
    Task<std::uint64_t> allocated_bytes() override { return child_->allocated_bytes(); }
    // Not copy_from(): what a filter does to data, it does to copies too.

    Task<CheckReport> check(Repair repair) override { return child_->check(repair); }
    Task<> amend(OptionList options) override { return child_->amend(std::move(options)); }
    Task<> change_backing(NodePtr backing, std::string name, std::string format) override {
        return child_->change_backing(std::move(backing), std::move(name), std::move(format));
    }
    Task<std::vector<SnapshotInfo>> snapshots() override { return child_->snapshots(); }
    Task<std::string> create_snapshot(SnapshotInfo snapshot) override {
        return child_->create_snapshot(std::move(snapshot));
    }
    Task<> apply_snapshot(std::string which) override {
        return child_->apply_snapshot(std::move(which));
    }
    Task<> delete_snapshot(std::string which) override {
        return child_->delete_snapshot(std::move(which));
    }
    Task<> load_snapshot(std::string which) override {
        return child_->load_snapshot(std::move(which));
    }
    Task<> read_vm_state(std::uint64_t offset, Buffers into) override {
        return child_->read_vm_state(offset, into);
    }
    Task<> write_vm_state(std::uint64_t offset, Buffers from) override {
        return child_->write_vm_state(offset, from);
    }
    Task<std::vector<BitmapInfo>> bitmaps() override { return child_->bitmaps(); }
    Task<Bitmap> read_bitmap(std::string name) override {
        return child_->read_bitmap(std::move(name));
    }
    Task<> store_bitmap(Bitmap bitmap) override { return child_->store_bitmap(std::move(bitmap)); }
    Task<> remove_bitmap(std::string name) override {
        return child_->remove_bitmap(std::move(name));
    }

  protected:
    [[nodiscard]] Node& child() const { return *child_; }

  private:
    const NodePtr child_;
};

}  // namespace strata::block
