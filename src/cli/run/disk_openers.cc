// DiskOpeners: locations become openers.
#include "cli/run/disk_openers.h"

#include <string>

#include "block/nbd/tls.h"

namespace strata::cli {
namespace {

/// The machine's process opens no folder: it gets what is in it, and uses it for this export alone.
Result<> hand_credentials_on(const block::OptionList& options, api::Json& nbd) {
    block::OptionList rest = options;
    block::nbd::Location where = STRATA_TRY(block::nbd::take_location(rest));
    if (!where.tls || !where.tls_files.empty()) {
        return ok();
    }
    if (where.tls_folder.empty()) {
        return Error{ErrorKind::InvalidArgument,
                     "an export with TLS as a copy's target: name the folder of its credentials "
                     "(--tls-certificates FOLDER)"};
    }
    where.tls_files = STRATA_TRY(block::nbd::read_client_files(where.tls_folder, where.tls_psk));
    where.tls_folder.clear();
    nbd = api::Json::object();
    for (const auto& [name, value] : block::nbd::location_options(where)) {
        nbd[name] = value;
    }
    for (const auto& [name, value] : rest) {
        nbd[name] = value;
    }
    return ok();
}

}  // namespace

Result<> DiskOpeners::add(std::vector<api::DiskConfig>& disks,
                          const std::map<std::size_t, FolderDisk>& folders,
                          std::vector<UniqueFd>& fds) {
    for (std::size_t i = 0; i < disks.size(); ++i) {
        api::DiskConfig& disk = disks[i];
        if (disk.nbd.empty()) {
            continue;
        }
        const auto folder = folders.find(i);
        fds.push_back(folder == folders.end() ? STRATA_TRY(add_one(disk.nbd))
                                              : STRATA_TRY(add_folder(folder->second)));
        disk.file.fd = static_cast<std::int64_t>(fds.size()) - 1;
    }
    return ok();
}

Result<UniqueFd> DiskOpeners::add_one(block::OptionList location) {
    block::nbd::Location where = STRATA_TRY(block::nbd::take_location(location));
    auto [opener, channel] =
        STRATA_TRY(block::nbd::ConnectionOpener::create(std::move(where.address)));
    openers_.push_back(std::move(opener));
    return std::move(channel);
}

Result<UniqueFd> DiskOpeners::add_folder(const FolderDisk& folder) {
    folders_.push_back(STRATA_TRY(FolderServer::create(folder)));
    auto [opener, channel] = STRATA_TRY(block::nbd::ConnectionOpener::create(
        [server = folders_.back().get()] { return server->connect(); }));
    openers_.push_back(std::move(opener));
    return std::move(channel);
}

Result<> DiskOpeners::open_export_of(api::Json& body, std::vector<UniqueFd>& fds) {
    const auto arguments = body.find("arguments");
    if (arguments == body.end() || !arguments->is_object() || !arguments->contains("nbd")) {
        return ok();
    }
    block::OptionList location;
    for (const auto& [name, value] : (*arguments)["nbd"].items()) {
        if (!value.is_string()) {
            return Error{ErrorKind::InvalidArgument, "nbd: must be an object of texts"};
        }
        location.emplace_back(name, value.get<std::string>());
    }
    std::erase_if(openers_, [](const auto& opener) { return opener->over(); });
    STRATA_TRY_VOID(hand_credentials_on(location, (*arguments)["nbd"]));
    fds.clear();
    fds.push_back(STRATA_TRY(add_one(std::move(location))));
    (*arguments)["fd"] = 0;
    Result<> started = openers_.back()->start();
    if (!started.ok()) {
        openers_.pop_back();
    }
    return started;
}

Result<> DiskOpeners::start() {
    for (const auto& folder : folders_) {
        STRATA_TRY_VOID(folder->start());
    }
    for (const auto& opener : openers_) {
        STRATA_TRY_VOID(opener->start());
    }
    return ok();
}

}  // namespace strata::cli
