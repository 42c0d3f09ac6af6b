// CopyRecord: how far a copy of an image has come, in a file beside the target, so that one that
// was killed or interrupted goes on.
//
// It says what is copied (the source's files by inode, size and times), how, into which file, and
// up to which offset the target is durably the source's. It is replaced as a whole, after the
// target was flushed. If anything but the offset differs from what is asked for, the copy starts
// anew. What is beside the target by that name and is no record is neither replaced nor followed,
// and refused before anything is made. The target's content up to there is the caller's word:
// nobody has written to it meanwhile; samples() names places that are worth comparing, so that a
// file made anew is noticed.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "api/json.h"
#include "base/result.h"
#include "block/node.h"
#include "block/registry.h"

namespace strata::cli {

class CopyRecord {
  public:
    /// Of `source` with all layers below it into the file of `request`. `how`: what else decides on
    /// the content. NotSupported if one of them is no file of this host; AlreadyExists if something
    /// else than a record is in its place.
    static Result<CopyRecord> of(const block::Node& source, const block::CreateRequest& request,
                                 api::Json how);
    /// Up to where the copy that was begun before has come; 0: there is none that fits. An error:
    /// it cannot be told.
    [[nodiscard]] Result<std::uint64_t> done() const;
    /// Puts down that the target, which is open now, has everything below `done`. Durable when it
    /// answers.
    Result<> put(std::uint64_t done);
    /// The copy is whole: what was put down goes, durably. That there is nothing is no error.
    Result<> remove() const;
    /// Has `make` make `target` anew, which consists of `files`: what was put down of it is out of
    /// force before, and gone afterwards, unless `make` fails and has left the files as they were.
    static Result<> replace(const std::string& target, const std::vector<std::string>& files,
                            const std::function<Result<>()>& make);
    [[nodiscard]] const std::string& path() const { return path_; }

  private:
    CopyRecord(api::Json what, const std::string& target)
        : what_(std::move(what)), target_(target), path_(path_of(target)) {}
    static std::string path_of(const std::string& target) { return target + ".resume"; }
    [[nodiscard]] Result<api::Json> identity() const;

    api::Json what_;
    std::string target_, path_;
};

/// Offsets of `bytes` bytes each, of [0, end): some over all of it, and the last ones.
std::vector<std::uint64_t> samples(std::uint64_t end, std::uint64_t bytes);

}  // namespace strata::cli
