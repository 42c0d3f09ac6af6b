// Secrets: the passphrases that --object names, on their way from files to the VMM.
//
// They travel as descriptors of memory without a name: on no command line, in no message, in no
// file.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace strata::cli {

class Secrets {
  public:
    /// "secret,id=ID,file=FILE…": reads it. One that is encrypted names one that came before.
    Result<> add(std::string_view object);
    /// The passphrase `id`, in a file of memory. NotFound.
    [[nodiscard]] Result<UniqueFd> as_file(const std::string& id) const;

  private:
    std::map<std::string, std::string> secrets_;
};

}  // namespace strata::cli
