// CpioWriter: an initramfs archive ("newc" format of
// Documentation/driver-api/early-userspace/buffer-format.rst), in memory.
//
// Everything belongs to root, so that an archive can be made without rights, device nodes included.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

namespace strata::cli {

class CpioWriter {
  public:
    /// Paths are relative, without leading slash; missing parent folders are added.
    void folder(std::string_view path, std::uint32_t mode = 0755);
    void file(std::string_view path, std::string_view content, std::uint32_t mode = 0644);
    void link(std::string_view path, std::string_view target);
    void character_device(std::string_view path, std::uint32_t major, std::uint32_t minor,
                          std::uint32_t mode);
    /// The whole archive, ended and padded.
    [[nodiscard]] std::string finish() &&;

  private:
    struct Device {
        std::uint32_t major = 0, minor = 0;
    };
    void parents(std::string_view path);
    void entry(std::string_view path, std::uint32_t mode, std::string_view content, Device device);
    std::string bytes_;
    std::set<std::string, std::less<>> folders_;
    std::uint32_t inode_ = 0;
};

}  // namespace strata::cli
