// TLS for NBD: OpenSSL behind the two classes of tls.h.
#include "block/nbd/tls.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wold-style-cast"  // OpenSSL's macros

namespace strata::block::nbd {
namespace {

constexpr std::size_t kMaxKey = 64, kMaxKeyFile = 1U << 20;

/// What OpenSSL complained about first.
std::string complaint() {
    const unsigned long number = ERR_get_error();
    ERR_clear_error();
    if (number == 0) {
        return "no reason given";
    }
    const char* reason = ERR_reason_error_string(number);
    return reason != nullptr ? reason : fmt::format("error {:#x}", number);
}

Error tls_error(std::string_view doing) {
    return {ErrorKind::PermissionDenied, fmt::format("TLS: {}: {}", doing, complaint()), EACCES};
}

Result<> readable(const std::string& file) {
    if (::access(file.c_str(), R_OK) != 0) {
        return Error::from_errno(fmt::format("Unable to access credentials {}", file));
    }
    return ok();
}

Result<std::vector<unsigned char>> key_bytes(std::string_view hex, const std::string& file) {
    std::vector<unsigned char> key;
    const auto digit = [](char c) {
        return std::string_view("0123456789abcdef")
            .find(static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
    };
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
        const std::size_t high = digit(hex[i]), low = digit(hex[i + 1]);
        if (high == std::string_view::npos || low == std::string_view::npos) {
            break;
        }
        key.push_back(static_cast<unsigned char>(high * 16 + low));
    }
    if (key.empty() || key.size() * 2 != hex.size() || key.size() > kMaxKey) {
        return Error{
            ErrorKind::InvalidArgument,
            fmt::format("'{}': a key is 1 to {} bytes in hexadecimal digits", file, kMaxKey)};
    }
    return key;
}

constexpr std::size_t kMaxBundle = 48U << 10;  ///< goes in one control message
constexpr const char* kAuthority = "ca-cert.pem";
constexpr const char* kRevoked = "ca-crl.pem";
constexpr const char* kClientCertificate = "client-cert.pem";
constexpr const char* kClientKey = "client-key.pem";

template <typename T, void (*Free)(T*)>
struct Freer {
    void operator()(T* object) const { Free(object); }
};
using Certificate = std::unique_ptr<X509, Freer<X509, X509_free>>;
using Revocations = std::unique_ptr<X509_CRL, Freer<X509_CRL, X509_CRL_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY, EVP_PKEY_free>>;

/// One of `files`, to be read; empty if it is not there.
class PemFile {
  public:
    PemFile(const TlsFiles& files, const char* name) {
        const auto found = files.find(name);
        const std::string_view text =
            found != files.end() ? std::string_view(found->second) : "";  // never null
        bio_ = BIO_new_mem_buf(text.data(), static_cast<int>(text.size()));
        STRATA_CHECK(bio_ != nullptr, "no memory for TLS");
    }
    ~PemFile() { (void)BIO_free(bio_); }  // always succeeds
    PemFile(const PemFile&) = delete;
    PemFile& operator=(const PemFile&) = delete;
    [[nodiscard]] BIO* get() const { return bio_; }

  private:
    BIO* bio_;
};

}  // namespace

struct TlsCredentials::Keys {
    std::map<std::string, std::vector<unsigned char>, std::less<>> by_user;
    std::string user;  ///< a client's own
};

TlsCredentials::TlsCredentials(TlsRole role, bool psk)
    : context_(SSL_CTX_new(TLS_method())), role_(role), psk_(psk) {
    STRATA_CHECK(context_ != nullptr, "no memory for TLS");
    (void)SSL_CTX_set_min_proto_version(context_,
                                        TLS1_2_VERSION);  // cannot fail for a version that exists
    SSL_CTX_set_options(context_,
                        SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
    SSL_CTX_set_mode(context_, SSL_MODE_AUTO_RETRY);
    SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_num_tickets(context_, 0);
}

TlsCredentials::~TlsCredentials() {
    SSL_CTX_free(context_);
}

Result<std::shared_ptr<const TlsCredentials>> TlsCredentials::x509(TlsRole role,
                                                                   const std::string& folder,
                                                                   bool verify_peer) {
    std::shared_ptr<TlsCredentials> made(new TlsCredentials(role, false));
    if (folder.empty() && role == TlsRole::Client) {
        made->verify_ = true;
        if (SSL_CTX_set_default_verify_paths(made->context_) != 1) {
            return tls_error("the system's certificate authorities");
        }
    } else {
        STRATA_TRY_VOID(made->load_certificates(folder, verify_peer));
    }
    made->ask_peer();
    return std::shared_ptr<const TlsCredentials>(std::move(made));
}

void TlsCredentials::ask_peer() {
    const int mode = !verify_                   ? SSL_VERIFY_NONE
                     : role_ == TlsRole::Server ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
                                                : SSL_VERIFY_PEER;
    SSL_CTX_set_verify(context_, mode, nullptr);
}

Result<TlsFiles> read_client_files(const std::string& folder, bool psk) {
    TlsFiles files;
    std::size_t total = 0;
    for (const char* name :
         psk ? std::vector{"keys.psk"}
             : std::vector{kAuthority, kRevoked, kClientCertificate, kClientKey}) {
        const std::string path = folder + "/" + name;
        if (::access(path.c_str(), F_OK) != 0 &&
            (name == kRevoked || name == kClientCertificate || name == kClientKey)) {
            continue;
        }
        STRATA_TRY_VOID(readable(path));
        std::ifstream input(path, std::ios::binary);
        std::string text(kMaxBundle + 1, '\0');
        input.read(text.data(), static_cast<std::streamsize>(text.size()));
        text.resize(static_cast<std::size_t>(input.gcount()));
        total += text.size();
        if (total > kMaxBundle) {
            return Error{ErrorKind::InvalidArgument,
                         fmt::format("'{}': credentials to be handed on have at most {} bytes",
                                     folder, kMaxBundle)};
        }
        files[name] = std::move(text);
    }
    return files;
}

Result<std::shared_ptr<const TlsCredentials>> TlsCredentials::client_x509(const TlsFiles& files,
                                                                          bool verify_peer) {
    std::shared_ptr<TlsCredentials> made(new TlsCredentials(TlsRole::Client, false));
    made->verify_ = verify_peer;
    STRATA_TRY_VOID(made->take_certificates(files));
    made->ask_peer();
    return std::shared_ptr<const TlsCredentials>(std::move(made));
}

Result<> TlsCredentials::take_certificates(const TlsFiles& files) {
    X509_STORE* const store = SSL_CTX_get_cert_store(context_);
    unsigned authorities = 0;
    const PemFile authority(files, kAuthority);
    while (const Certificate each{PEM_read_bio_X509(authority.get(), nullptr, nullptr, nullptr)}) {
        if (X509_STORE_add_cert(store, each.get()) != 1) {
            return tls_error(fmt::format("cannot use '{}'", kAuthority));
        }
        ++authorities;
    }
    ERR_clear_error();  // the file's end is one
    if (authorities == 0) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("TLS: '{}' has no certificate", kAuthority)};
    }
    if (files.contains(kClientCertificate)) {
        const PemFile chain(files, kClientCertificate), key_file(files, kClientKey);
        const Certificate own{PEM_read_bio_X509_AUX(chain.get(), nullptr, nullptr, nullptr)};
        const PrivateKey key{PEM_read_bio_PrivateKey(key_file.get(), nullptr, nullptr, nullptr)};
        if (own == nullptr || key == nullptr || SSL_CTX_use_certificate(context_, own.get()) != 1 ||
            SSL_CTX_use_PrivateKey(context_, key.get()) != 1) {
            return tls_error(
                fmt::format("cannot use '{}' with '{}'", kClientCertificate, kClientKey));
        }
        while (const Certificate next{PEM_read_bio_X509(chain.get(), nullptr, nullptr, nullptr)}) {
            if (SSL_CTX_add1_chain_cert(context_, next.get()) != 1) {
                return tls_error(fmt::format("cannot use '{}'", kClientCertificate));
            }
        }
        ERR_clear_error();
    }
    if (files.contains(kRevoked)) {
        const PemFile list(files, kRevoked);
        const Revocations revoked{PEM_read_bio_X509_CRL(list.get(), nullptr, nullptr, nullptr)};
        if (revoked == nullptr || X509_STORE_add_crl(store, revoked.get()) != 1) {
            return tls_error(fmt::format("cannot use '{}'", kRevoked));
        }
        (void)X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);  // always succeeds
    }
    return ok();
}

Result<> TlsCredentials::load_certificates(const std::string& folder, bool verify_peer) {
    const bool server = role_ == TlsRole::Server;
    const std::string authority = folder + "/ca-cert.pem", revoked = folder + "/ca-crl.pem";
    const std::string certificate = folder + (server ? "/server-cert.pem" : "/client-cert.pem");
    const std::string key = folder + (server ? "/server-key.pem" : "/client-key.pem");
    verify_ = verify_peer;
    const bool has_authority = ::access(authority.c_str(), F_OK) == 0;
    if (has_authority || !server || verify_peer) {
        STRATA_TRY_VOID(readable(authority));
        if (SSL_CTX_load_verify_locations(context_, authority.c_str(), nullptr) != 1) {
            return tls_error(fmt::format("cannot load '{}'", authority));
        }
        if (server) {
            SSL_CTX_set_client_CA_list(context_, SSL_load_client_CA_file(authority.c_str()));
        }
    }
    if (server || ::access(certificate.c_str(), F_OK) == 0) {
        STRATA_TRY_VOID(readable(certificate));
        STRATA_TRY_VOID(readable(key));
        if (SSL_CTX_use_certificate_chain_file(context_, certificate.c_str()) != 1 ||
            SSL_CTX_use_PrivateKey_file(context_, key.c_str(), SSL_FILETYPE_PEM) != 1 ||
            SSL_CTX_check_private_key(context_) != 1) {
            return tls_error(fmt::format("cannot use '{}' with '{}'", certificate, key));
        }
    }
    if (::access(revoked.c_str(), F_OK) == 0) {
        X509_STORE* store = SSL_CTX_get_cert_store(context_);
        X509_LOOKUP* lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
        if (lookup == nullptr ||
            X509_load_crl_file(lookup, revoked.c_str(), X509_FILETYPE_PEM) < 1) {
            return tls_error(fmt::format("cannot load '{}'", revoked));
        }
        (void)X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);  // always succeeds
    }
    return ok();
}

Result<std::shared_ptr<const TlsCredentials>> TlsCredentials::psk(TlsRole role,
                                                                  const std::string& folder,
                                                                  const std::string& user) {
    const std::string file = folder + "/keys.psk";
    STRATA_TRY_VOID(readable(file));
    std::ifstream input(file);
    return psk_of(role, input, file, user);
}

Result<std::shared_ptr<const TlsCredentials>> TlsCredentials::client_psk(const TlsFiles& files,
                                                                         const std::string& user) {
    const auto keys = files.find("keys.psk");
    std::istringstream input(keys != files.end() ? keys->second : "");
    return psk_of(TlsRole::Client, input, "keys.psk", user);
}

Result<std::shared_ptr<const TlsCredentials>> TlsCredentials::psk_of(TlsRole role,
                                                                     std::istream& input,
                                                                     const std::string& file,
                                                                     const std::string& user) {
    std::shared_ptr<TlsCredentials> made(new TlsCredentials(role, true));
    made->keys_ = std::make_unique<Keys>();
    made->keys_->user = user.empty() ? "qemu" : user;
    std::string line;
    for (std::size_t total = 0; std::getline(input, line) && total < kMaxKeyFile;
         total += line.size()) {
        const std::size_t colon = line.find(':');
        if (colon != std::string::npos && !line.starts_with('#')) {
            made->keys_->by_user[line.substr(0, colon)] =
                STRATA_TRY(key_bytes(std::string_view(line).substr(colon + 1), file));
        }
    }
    if (role == TlsRole::Client && !made->keys_->by_user.contains(made->keys_->user)) {
        return Error{ErrorKind::NotFound,
                     fmt::format("'{}' has no key of user '{}'", file, made->keys_->user)};
    }
    SSL_CTX_set_app_data(made->context_, made->keys_.get());
    if (role == TlsRole::Server) {
        SSL_CTX_set_psk_server_callback(
            made->context_,
            [](SSL* ssl, const char* identity, unsigned char* key, unsigned limit) -> unsigned {
                const auto* keys =
                    static_cast<const Keys*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
                const auto found = keys->by_user.find(std::string_view(identity));
                if (found == keys->by_user.end() || found->second.size() > limit) {
                    return 0;
                }
                std::memcpy(key, found->second.data(), found->second.size());
                return static_cast<unsigned>(found->second.size());
            });
    } else {
        SSL_CTX_set_verify(made->context_, SSL_VERIFY_PEER,
                           nullptr);  // no authority is trusted: a server with a certificate
                                      // instead of the key fails
        SSL_CTX_set_psk_client_callback(
            made->context_,
            [](SSL* ssl, const char* /*hint*/, char* identity, unsigned identity_limit,
               unsigned char* key, unsigned limit) -> unsigned {
                const auto* keys =
                    static_cast<const Keys*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
                const std::vector<unsigned char>& own = keys->by_user.find(keys->user)->second;
                if (own.size() > limit || keys->user.size() + 1 > identity_limit) {
                    return 0;
                }
                std::memcpy(identity, keys->user.c_str(), keys->user.size() + 1);
                std::memcpy(key, own.data(), own.size());
                return static_cast<unsigned>(own.size());
            });
    }
    return std::shared_ptr<const TlsCredentials>(std::move(made));
}

Result<std::unique_ptr<TlsSession>> TlsSession::create(
    std::shared_ptr<const TlsCredentials> credentials, const std::string& host) {
    SSL* ssl = SSL_new(credentials->context_);
    BIO* input = BIO_new(BIO_s_mem());
    BIO* output = BIO_new(BIO_s_mem());
    STRATA_CHECK(ssl != nullptr && input != nullptr && output != nullptr, "no memory for TLS");
    SSL_set_bio(ssl, input, output);
    const bool client = credentials->role_ == TlsRole::Client;
    const bool verify = credentials->verify_;
    std::unique_ptr<TlsSession> session(new TlsSession(std::move(credentials), ssl));
    if (client) {
        SSL_set_connect_state(ssl);
    } else {
        SSL_set_accept_state(ssl);
    }
    if (client && verify && !host.empty()) {
        X509_VERIFY_PARAM* wanted = SSL_get0_param(ssl);
        const bool address = X509_VERIFY_PARAM_set1_ip_asc(wanted, host.c_str()) == 1;
        if (!address && (SSL_set1_host(ssl, host.c_str()) != 1 ||
                         SSL_set_tlsext_host_name(ssl, host.c_str()) != 1)) {
            return tls_error(fmt::format("host name '{}'", host));
        }
    }
    return session;
}

TlsSession::~TlsSession() {
    SSL_free(ssl_);
}

Result<TlsSession::Progress> TlsSession::progress_of(int status, std::string_view doing) {
    switch (SSL_get_error(ssl_, status)) {
        case SSL_ERROR_WANT_READ:
        case SSL_ERROR_WANT_WRITE:
            return Progress::NeedsInput;
        case SSL_ERROR_ZERO_RETURN:
            return Progress::Ended;
        default:
            break;
    }
    const long verdict = SSL_get_verify_result(ssl_);
    if (verdict != X509_V_OK) {
        ERR_clear_error();
        return Error{ErrorKind::PermissionDenied,
                     fmt::format("TLS: {}: the peer's certificate: {}", doing,
                                 X509_verify_cert_error_string(verdict)),
                     EACCES};
    }
    return tls_error(doing);
}

Result<TlsSession::Progress> TlsSession::shake_hands() {
    ERR_clear_error();
    const int status = SSL_do_handshake(ssl_);
    return status == 1 ? Result<Progress>(Progress::Done) : progress_of(status, "handshake");
}

Result<TlsSession::Progress> TlsSession::read(std::span<std::byte> into, std::size_t& got) {
    ERR_clear_error();
    const int status = SSL_read_ex(ssl_, into.data(), into.size(), &got);
    return status == 1 ? Result<Progress>(Progress::Done) : progress_of(status, "receiving");
}

Result<> TlsSession::write(std::span<const std::byte> bytes) {
    ERR_clear_error();
    std::size_t written = 0;
    if (SSL_write_ex(ssl_, bytes.data(), bytes.size(), &written) != 1 || written != bytes.size()) {
        return tls_error("sending");
    }
    return ok();
}

void TlsSession::put_input(std::span<const std::byte> bytes) {
    const int taken = BIO_write(SSL_get_rbio(ssl_), bytes.data(), static_cast<int>(bytes.size()));
    STRATA_CHECK(taken == static_cast<int>(bytes.size()), "a memory BIO takes all");
}

std::vector<std::byte> TlsSession::take_output() {
    BIO* output = SSL_get_wbio(ssl_);
    std::vector<std::byte> bytes(BIO_ctrl_pending(output));
    if (!bytes.empty()) {
        const int got = BIO_read(output, bytes.data(), static_cast<int>(bytes.size()));
        bytes.resize(static_cast<std::size_t>(std::max(got, 0)));
    }
    return bytes;
}

std::string TlsSession::peer_name() const {
    X509* certificate = SSL_get1_peer_certificate(ssl_);
    if (certificate == nullptr) {
        return {};
    }
    BIO* text = BIO_new(BIO_s_mem());
    (void)X509_NAME_print_ex(text, X509_get_subject_name(certificate), 0,
                             XN_FLAG_RFC2253);  // an empty name otherwise
    std::string name(BIO_ctrl_pending(text), '\0');
    name.resize(static_cast<std::size_t>(
        std::max(BIO_read(text, name.data(), static_cast<int>(name.size())), 0)));
    BIO_free(text);
    X509_free(certificate);
    return name;
}

}  // namespace strata::block::nbd
