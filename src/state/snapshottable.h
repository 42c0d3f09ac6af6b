// Pausable and Snapshottable: what every stateful part of a machine implements.
//
// A machine is saved by pausing all parts, then calling save() on each in a fixed order; loading is
// the reverse into freshly made, paused parts. The contract test of every part: save, load into a
// fresh one, same behaviour.
#pragma once

#include "base/result.h"
#include "state/state_stream.h"

namespace strata::state {

/// Can be held still. Both calls are idempotent; after pause() returned, the part neither touches
/// guest memory nor raises interrupts until resume().
class Pausable {
  public:
    virtual ~Pausable() = default;
    virtual Result<> pause() = 0;
    virtual Result<> resume() = 0;
};

/// Has state that outlives the process. Called only while paused.
class Snapshottable {
  public:
    virtual ~Snapshottable() = default;
    /// Writes its sections. A section has a name and a version of its own, apart from the
    /// product's.
    virtual Result<> save(StateWriter& writer) const = 0;
    /// Reads what save() of this or an older kept version wrote. The stream is hostile: everything
    /// is checked.
    virtual Result<> load(StateReader& reader) = 0;
};

}  // namespace strata::state
