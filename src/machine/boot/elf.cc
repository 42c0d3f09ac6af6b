// ELF: parsing of headers and notes, ELF-64 Object File Format 1.5 and the System V gABI.
#include "machine/boot/elf.h"

#include <array>
#include <cstring>

#include <fmt/core.h>

#include "base/byte_reader.h"
#include "base/endian.h"

namespace strata::machine::boot {
namespace {

constexpr std::array<std::uint8_t, 4> kMagic = {0x7f, 'E', 'L', 'F'};
constexpr std::uint8_t kClass32 = 1, kClass64 = 2, kLittleEndian = 1;
constexpr std::uint16_t kMachine386 = 3, kMachineX8664 = 62;
constexpr std::uint16_t kTypeExecutable = 2, kTypeShared = 3;
constexpr std::uint16_t kMaxHeaders = 256;
constexpr int kMaxNotes = 1024;

struct Identity {
    std::array<std::uint8_t, 4> magic{};
    std::uint8_t file_class = 0;
    std::uint8_t data = 0;
    std::array<std::uint8_t, 10> rest{};
    Le16 type;
    Le16 machine;
    Le32 version;
};
template <typename Word>
struct HeaderRest {
    Word entry;
    Word program_headers;
    Word section_headers;
    Le32 flags;
    Le16 header_size;
    Le16 program_header_size;
    Le16 program_header_count;
    Le16 section_header_size;
    Le16 section_header_count;
    Le16 name_section;
};
struct Program32 {
    Le32 type, offset, virtual_address, physical_address, file_size, memory_size, flags, alignment;
};
struct Program64 {
    Le32 type, flags;
    Le64 offset, virtual_address, physical_address, file_size, memory_size, alignment;
};
static_assert(sizeof(Identity) == 24 && sizeof(HeaderRest<Le32>) == 28 &&
              sizeof(HeaderRest<Le64>) == 40);
static_assert(sizeof(Program32) == 32 && sizeof(Program64) == 56);

Error refuse(std::string text) {
    return {ErrorKind::Failed, std::move(text)};
}

template <typename Word, typename Program>
Result<> read_segments(std::span<const std::byte> bytes, ElfFile& elf) {
    const ByteReader reader(bytes);
    const auto header = STRATA_TRY(reader.read_at<HeaderRest<Word>>(sizeof(Identity)));
    elf.entry = header.entry;
    if (header.program_header_count > kMaxHeaders) {
        return refuse(
            fmt::format("{} program headers are too many", header.program_header_count.value()));
    }
    if (header.program_header_count != 0 && header.program_header_size < sizeof(Program)) {
        return refuse("program headers are too short");
    }
    for (std::uint64_t i = 0; i < header.program_header_count; ++i) {
        std::uint64_t at = 0;
        if (__builtin_add_overflow(std::uint64_t{header.program_headers},
                                   i * header.program_header_size, &at)) {
            return refuse("program headers lie outside the file");
        }
        const auto program = STRATA_TRY(reader.read_at<Program>(at));
        const ElfSegment segment{program.type,
                                 program.offset,
                                 program.virtual_address,
                                 program.physical_address,
                                 program.file_size,
                                 program.memory_size,
                                 program.alignment};
        const bool wanted = segment.type == ElfFile::kLoad || segment.type == ElfFile::kNote;
        if (wanted && (segment.file_offset > bytes.size() ||
                       segment.file_size > bytes.size() - segment.file_offset)) {
            return refuse(fmt::format("segment {} lies outside the file (truncated?)", i));
        }
        if (wanted) {
            elf.segments.push_back(segment);
        }
    }
    return ok();
}

std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
    return (value + alignment - 1) & ~(alignment - 1);
}

/// Searches one PT_NOTE segment. Notes are padded to 4 bytes, or to 8 when the segment says so.
std::optional<std::span<const std::byte>> find_note(std::span<const std::byte> notes,
                                                    std::uint64_t alignment, std::string_view name,
                                                    std::uint32_t type) {
    ByteReader reader(notes);
    for (int i = 0; i < kMaxNotes; ++i) {
        const auto name_size = reader.read<Le32>();
        const auto content_size = reader.read<Le32>();
        const auto note_type = reader.read<Le32>();
        if (!name_size.ok() || !content_size.ok() || !note_type.ok()) {
            return std::nullopt;
        }
        const auto note_name = reader.take(*name_size);
        if (!note_name.ok() ||
            !reader.skip(align_up(reader.offset(), alignment) - reader.offset()).ok()) {
            return std::nullopt;
        }
        const auto content = reader.take(*content_size);
        if (!content.ok()) {
            return std::nullopt;
        }
        // The name's size counts its NUL.
        if (*note_type == type && note_name->size() == name.size() + 1 &&
            std::memcmp(note_name->data(), name.data(), name.size()) == 0) {
            return *content;
        }
        if (!reader.skip(align_up(reader.offset(), alignment) - reader.offset()).ok()) {
            return std::nullopt;
        }
    }
    return std::nullopt;
}

}  // namespace

bool is_elf(std::span<const std::byte> file) {
    return file.size() >= kMagic.size() &&
           std::memcmp(file.data(), kMagic.data(), kMagic.size()) == 0;
}

Result<ElfFile> ElfFile::parse(std::span<const std::byte> file) {
    const auto identity = STRATA_TRY(ByteReader(file).read_at<Identity>(0));
    if (!is_elf(file)) {
        return refuse("not an ELF file");
    }
    if (identity.data != kLittleEndian ||
        (identity.machine != kMachine386 && identity.machine != kMachineX8664)) {
        return refuse("an ELF file, but not for x86");
    }
    if (identity.type != kTypeExecutable && identity.type != kTypeShared) {
        return refuse("an ELF file, but not an executable");
    }
    ElfFile elf;
    elf.is_64 = identity.file_class == kClass64;
    if (elf.is_64) {
        STRATA_TRY_VOID((read_segments<Le64, Program64>(file, elf)));
    } else if (identity.file_class == kClass32) {
        STRATA_TRY_VOID((read_segments<Le32, Program32>(file, elf)));
    } else {
        return refuse("an ELF file of unknown class");
    }
    return elf;
}

std::optional<std::span<const std::byte>> ElfFile::note(std::span<const std::byte> file,
                                                        std::string_view name,
                                                        std::uint32_t type) const {
    for (const ElfSegment& segment : segments) {
        if (segment.type != kNote) {
            continue;
        }
        const auto notes = file.subspan(segment.file_offset, segment.file_size);
        if (const auto found = find_note(notes, segment.alignment == 8 ? 8 : 4, name, type)) {
            return found;
        }
    }
    return std::nullopt;
}

Result<> ElfFile::load_into(PlanBuilder& plan, Source source) const {
    std::size_t number = 0;
    for (const ElfSegment& segment : segments) {
        if (segment.type != kLoad) {
            continue;
        }
        if (segment.file_size > segment.memory_size) {
            return refuse(fmt::format("segment {} is larger in the file than in memory", number));
        }
        STRATA_TRY_VOID(plan.kernel_part(fmt::format("segment {}", number),
                                         segment.physical_address, segment.file_offset,
                                         segment.file_size, segment.memory_size, source));
        ++number;
    }
    if (number == 0) {
        return refuse("an ELF file without a segment to load");
    }
    return ok();
}

std::uint64_t ElfFile::to_physical(std::uint64_t address) const {
    for (const ElfSegment& segment : segments) {
        if (segment.type == kLoad && address - segment.virtual_address < segment.memory_size) {
            return segment.physical_address + (address - segment.virtual_address);
        }
    }
    return address;
}

}  // namespace strata::machine::boot
