// LinuxPayload: decompression into anonymous memory, checks of the ELF, relocation as
// arch/x86/boot/compressed/misc.c does it.
#include "machine/boot/linux_payload.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include <fmt/core.h>
#include <libdeflate.h>
#include <lzma.h>
#include <zstd.h>

#include "base/byte_reader.h"
#include "base/endian.h"
#include "base/text.h"

namespace strata::machine::boot {
namespace {

constexpr std::uint64_t kMaxUnpacked = 512ULL << 20;
constexpr std::uint64_t kMaxDecoderMemory = 256ULL << 20;  // of xz: its dictionary, mostly
constexpr std::uint64_t kSizeBytes = 4;  // the unpacked size, at the payload's end
constexpr std::uint64_t kMapStart =
    0xffffffff80000000;  // __START_KERNEL_map: virtual less physical address
constexpr std::uint64_t kMapBytes = 1ULL << 30;  // KERNEL_IMAGE_SIZE of a kernel with KASLR
constexpr std::uint64_t kMinAlignment = 2ULL << 20;
constexpr std::size_t kSectionHeaderTable = 40, kSectionHeaderSize = 58,
                      kSectionHeaderCount = 60;  // in Elf64_Ehdr

Error leave(std::string text) {
    return {ErrorKind::NotSupported, std::move(text)};
}

using Bytes = std::span<const std::byte>;
using Decoder = bool (*)(Bytes in, std::span<std::byte> out);

bool unxz(Bytes in, std::span<std::byte> out) {
    std::uint64_t limit = kMaxDecoderMemory;
    std::size_t in_at = 0;
    std::size_t out_at = 0;
    // SAFETY: liblzma reads and writes octets; std::byte may be seen as unsigned char.
    const auto* from = reinterpret_cast<const std::uint8_t*>(in.data());
    auto* to = reinterpret_cast<std::uint8_t*>(out.data());
    return ::lzma_stream_buffer_decode(&limit, 0, nullptr, from, &in_at, in.size(), to, &out_at,
                                       out.size()) == LZMA_OK &&
           out_at == out.size();
}

bool unzstd(Bytes in, std::span<std::byte> out) {
    return ::ZSTD_decompress(out.data(), out.size(), in.data(), in.size()) == out.size();
}

bool gunzip(Bytes in, std::span<std::byte> out) {
    const std::unique_ptr<libdeflate_decompressor, void (*)(libdeflate_decompressor*)> state(
        ::libdeflate_alloc_decompressor(), &::libdeflate_free_decompressor);
    // No place for the size: anything but the full length is an error.
    return state != nullptr &&
           ::libdeflate_gzip_decompress(state.get(), in.data(), in.size(), out.data(), out.size(),
                                        nullptr) == LIBDEFLATE_SUCCESS;
}

struct Format {
    std::array<std::uint8_t, 4> magic;
    std::size_t magic_size;
    bool size_is_inside;  ///< gzip's own last field; behind the stream otherwise
    Decoder decode;
};
constexpr Format kFormats[] = {
    {{0xfd, '7', 'z', 'X'}, 4, false, &unxz},
    {{0x28, 0xb5, 0x2f, 0xfd}, 4, false, &unzstd},
    {{0x1f, 0x8b, 0x08, 0}, 3, true, &gunzip},
};

Result<MmapRegion> decompress(const LinuxPayload& payload) {
    const Bytes bytes = payload.bytes;
    const auto* format = std::ranges::find_if(kFormats, [&](const Format& known) {
        return bytes.size() > kSizeBytes + known.magic_size &&
               std::memcmp(bytes.data(), known.magic.data(), known.magic_size) == 0;
    });
    if (format == std::end(kFormats)) {
        return leave("its compression is none of xz, zstd and gzip");
    }
    const std::uint64_t size =
        STRATA_TRY(ByteReader(bytes).read_at<Le32>(bytes.size() - kSizeBytes));
    if (size == 0 || size > std::min(kMaxUnpacked, payload.memory_size)) {
        return leave(fmt::format("an unpacked size of {}", format_size(size)));
    }
    auto image =
        STRATA_TRY(MmapRegion::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
    if (!format->decode(format->size_is_inside ? bytes : bytes.first(bytes.size() - kSizeBytes),
                        image.bytes())) {
        return leave("damaged compressed data");
    }
    return image;
}

/// The segments must lie where the stub would put them: inside [load_address, load_address +
/// memory_size), with the entry point.
Result<> check_segments(const ElfFile& elf, const LinuxPayload& payload) {
    bool entry_inside = false;
    for (const ElfSegment& segment : elf.segments) {
        if (segment.type != ElfFile::kLoad) {
            continue;
        }
        const std::uint64_t offset = segment.physical_address - payload.load_address;
        if (segment.file_size > segment.memory_size ||
            segment.physical_address < payload.load_address || offset > payload.memory_size ||
            segment.memory_size > payload.memory_size - offset) {
            return leave(fmt::format("a segment at {:#x} outside the kernel's memory",
                                     segment.physical_address));
        }
        entry_inside = entry_inside || elf.entry - segment.physical_address < segment.file_size;
    }
    return elf.is_64 && entry_inside ? ok() : Result<>(leave("no 64-bit entry point in a segment"));
}

/// The words behind the ELF file proper, whose last part is the table of section headers; empty if
/// there are none.
Result<Bytes> relocation_table(Bytes image) {
    const ByteReader reader(image);
    const std::uint64_t sections = STRATA_TRY(reader.read_at<Le64>(kSectionHeaderTable));
    const std::uint64_t size = STRATA_TRY(reader.read_at<Le16>(kSectionHeaderSize));
    const std::uint64_t count = STRATA_TRY(reader.read_at<Le16>(kSectionHeaderCount));
    if (sections == 0 || sections > image.size() || size * count > image.size() - sections) {
        return leave("no section headers inside the file");
    }
    const Bytes table = image.subspan(sections + size * count);
    if (table.size() % sizeof(Le32) != 0) {
        return leave("a relocation table of odd size");
    }
    return table;
}

/// Changes the addresses in the image. Each relocation is the low half of the virtual address of a
/// word in the kernel.
class Relocator {
  public:
    Relocator(std::span<std::byte> image, const ElfFile& elf, std::uint64_t distance)
        : image_(image), elf_(elf), distance_(distance) {}

    /// The lists, first to last: 0, 64-bit words; (only before Linux 6.15) 0, words that get the
    /// distance subtracted; 0, 32-bit words.
    Result<> apply(Bytes table);

  private:
    template <typename Word>
    Result<> shift(std::uint32_t address, std::uint64_t distance);

    std::span<std::byte> image_;
    const ElfFile& elf_;
    std::uint64_t distance_;
};

template <typename Word>
Result<> Relocator::shift(std::uint32_t address, std::uint64_t distance) {
    const std::uint64_t physical =
        static_cast<std::uint64_t>(static_cast<std::int32_t>(address)) - kMapStart;
    for (const ElfSegment& segment : elf_.segments) {
        const std::uint64_t offset = physical - segment.physical_address;
        if (segment.type == ElfFile::kLoad && offset < segment.file_size &&
            sizeof(Word) <= segment.file_size - offset) {
            std::byte* place = image_.data() + segment.file_offset +
                               offset;  // ElfFile::parse: the segment lies inside the file
            Word value{};
            std::memcpy(&value, place, sizeof(value));
            value = static_cast<Word>(value + distance);
            std::memcpy(place, &value, sizeof(value));
            return ok();
        }
    }
    return leave("a relocation outside the kernel");
}

Result<> Relocator::apply(Bytes table) {
    std::vector<std::uint32_t> words(table.size() / sizeof(std::uint32_t));
    std::memcpy(words.data(), table.data(), words.size() * sizeof(std::uint32_t));
    const auto lists = std::ranges::count(words, 0U);
    if (words.empty() || words.front() != 0 || lists < 2 || lists > 3) {
        return leave("a relocation table of unknown shape");
    }
    std::ptrdiff_t list = 0;
    for (const std::uint32_t word : words) {
        if (word == 0) {
            ++list;
        } else if (list == 1) {
            STRATA_TRY_VOID(shift<std::uint64_t>(word, distance_));
        } else {
            STRATA_TRY_VOID(shift<std::uint32_t>(word, list == lists ? distance_ : 0 - distance_));
        }
    }
    return ok();
}

/// How far from its preferred virtual address the kernel shall lie: as the stub chooses.
Result<std::uint64_t> choose_distance(const LinuxPayload& payload, std::uint64_t random) {
    const std::uint64_t alignment = payload.alignment;
    if (alignment < kMinAlignment || (alignment & (alignment - 1)) != 0 ||
        payload.load_address % alignment != 0 ||
        payload.load_address + payload.memory_size > kMapBytes) {
        return leave("no room for another virtual address");
    }
    const std::uint64_t slots =
        (kMapBytes - payload.load_address - payload.memory_size) / alignment + 1;
    return random % slots * alignment;
}

}  // namespace

Result<UnpackedKernel> unpack_kernel(const LinuxPayload& payload,
                                     std::optional<std::uint64_t> random) {
    return place_kernel(STRATA_TRY(decompress(payload)), payload, random);
}

Result<UnpackedKernel> place_kernel(MmapRegion image, const LinuxPayload& payload,
                                    std::optional<std::uint64_t> random) {
    UnpackedKernel kernel;
    kernel.image = std::move(image);
    kernel.elf = STRATA_TRY(ElfFile::parse(kernel.image.bytes()));
    STRATA_TRY_VOID(check_segments(kernel.elf, payload));
    const Bytes table = STRATA_TRY(relocation_table(kernel.image.bytes()));
    if (random && !table.empty()) {
        Relocator relocator(kernel.image.bytes(), kernel.elf,
                            STRATA_TRY(choose_distance(payload, *random)));
        STRATA_TRY_VOID(relocator.apply(table));
        kernel.randomized = true;
    }
    return kernel;
}

bool has_word(std::string_view command_line, std::string_view word) {
    constexpr std::string_view kSpaces = " \t\n";
    for (std::size_t at = command_line.find_first_not_of(kSpaces); at != std::string_view::npos;) {
        const std::size_t end =
            std::min(command_line.find_first_of(kSpaces, at), command_line.size());
        if (command_line.substr(at, end - at) == word) {
            return true;
        }
        at = command_line.find_first_not_of(kSpaces, end);
    }
    return false;
}

}  // namespace strata::machine::boot
