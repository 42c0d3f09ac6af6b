// TLS for NBD: credentials as QEMU keeps them in a directory, and one connection's encryption. The
// only place that knows OpenSSL's.
//
// x509: ca-cert.pem (with ca-crl.pem if there), and server-cert.pem with server-key.pem, or
// client-cert.pem with client-key.pem. PSK: keys.psk, a line "USER:HEXKEY" for each. A session
// works on memory alone; the Stream moves the bytes.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

struct ssl_ctx_st;
struct ssl_st;

namespace strata::block::nbd {

enum class TlsRole : bool { Client, Server };

/// A folder of credentials for who cannot open it: names and contents of its files.
using TlsFiles = std::map<std::string, std::string>;
/// What a client needs of `folder`.
Result<TlsFiles> read_client_files(const std::string& folder, bool psk);

class TlsCredentials {
  public:
    /// Certificates of `folder`; empty: a client that trusts the system's authorities.
    /// `verify_peer`: a server asks for the client's certificate, a client checks the server's.
    static Result<std::shared_ptr<const TlsCredentials>> x509(TlsRole role,
                                                              const std::string& folder,
                                                              bool verify_peer);
    /// Keys of `folder`; a client is `user`.
    static Result<std::shared_ptr<const TlsCredentials>> psk(TlsRole role,
                                                             const std::string& folder,
                                                             const std::string& user);
    /// A client's, of read_client_files().
    static Result<std::shared_ptr<const TlsCredentials>> client_x509(const TlsFiles& files,
                                                                     bool verify_peer);
    static Result<std::shared_ptr<const TlsCredentials>> client_psk(const TlsFiles& files,
                                                                    const std::string& user);
    ~TlsCredentials();
    TlsCredentials(const TlsCredentials&) = delete;
    TlsCredentials& operator=(const TlsCredentials&) = delete;

    [[nodiscard]] TlsRole role() const { return role_; }
    [[nodiscard]] bool is_psk() const { return psk_; }

  private:
    friend class TlsSession;
    struct Keys;
    TlsCredentials(TlsRole role, bool psk);
    Result<> load_certificates(const std::string& folder, bool verify_peer);
    Result<> take_certificates(const TlsFiles& files);
    void ask_peer();
    static Result<std::shared_ptr<const TlsCredentials>> psk_of(TlsRole role, std::istream& input,
                                                                const std::string& file,
                                                                const std::string& user);
    ssl_ctx_st* context_ = nullptr;
    TlsRole role_;
    bool psk_, verify_ = false;
    std::unique_ptr<Keys> keys_;
};

class TlsSession {
  public:
    /// `host`: the name that the server's certificate must have; empty: any.
    static Result<std::unique_ptr<TlsSession>> create(
        std::shared_ptr<const TlsCredentials> credentials, const std::string& host);
    ~TlsSession();
    TlsSession(const TlsSession&) = delete;
    TlsSession& operator=(const TlsSession&) = delete;

    enum class Progress : std::uint8_t { Done, NeedsInput, Ended };
    /// A step of the handshake.
    Result<Progress> shake_hands();
    /// Decrypts into `into`: `got` bytes, if Done.
    Result<Progress> read(std::span<std::byte> into, std::size_t& got);
    /// Encrypts all of `bytes`.
    Result<> write(std::span<const std::byte> bytes);
    /// What came from the peer.
    void put_input(std::span<const std::byte> bytes);
    /// What must go to the peer; gone from here afterwards.
    std::vector<std::byte> take_output();
    /// The client's name by its certificate ("CN=…,O=…"), or by its key; empty if it has none.
    [[nodiscard]] std::string peer_name() const;

  private:
    TlsSession(std::shared_ptr<const TlsCredentials> credentials, ssl_st* ssl)
        : credentials_(std::move(credentials)), ssl_(ssl) {}
    Result<Progress> progress_of(int status, std::string_view doing);
    const std::shared_ptr<const TlsCredentials> credentials_;
    ssl_st* const ssl_;
};

}  // namespace strata::block::nbd
