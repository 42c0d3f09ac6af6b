// Tests of TLS sessions over keys: both ends in memory, and a server without the key.
#include "block/nbd/tls.h"

#include <cstdio>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#pragma GCC diagnostic ignored "-Wold-style-cast"  // OpenSSL's macros

namespace strata::block::nbd {
namespace {

using Progress = TlsSession::Progress;

class TlsTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "tlsXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    void write_key(const std::string& digits) const {
        std::ofstream(folder_ + "/keys.psk") << "alice:" << digits << "\n";
    }
    /// A key, and a certificate that it signs itself.
    void write_certificate() const {
        EVP_PKEY* key = EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256");
        X509* certificate = X509_new();
        ASSERT_TRUE(key != nullptr && certificate != nullptr);
        ASSERT_EQ(ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1), 1);
        ASSERT_NE(X509_gmtime_adj(X509_getm_notBefore(certificate), -60), nullptr);
        ASSERT_NE(X509_gmtime_adj(X509_getm_notAfter(certificate), 3600), nullptr);
        ASSERT_EQ(X509_set_pubkey(certificate, key), 1);
        ASSERT_NE(X509_sign(certificate, key, EVP_sha256()), 0);
        std::FILE* file = std::fopen((folder_ + "/server-cert.pem").c_str(), "w");
        ASSERT_EQ(PEM_write_X509(file, certificate), 1);
        ASSERT_EQ(std::fclose(file), 0);
        file = std::fopen((folder_ + "/server-key.pem").c_str(), "w");
        ASSERT_EQ(PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr), 1);
        ASSERT_EQ(std::fclose(file), 0);
        X509_free(certificate);
        EVP_PKEY_free(key);
    }
    /// The client's verdict.
    static Result<> shake_hands(TlsSession& client, TlsSession& server) {
        for (int round = 0; round < 10; ++round) {
            const Progress mine = STRATA_TRY(client.shake_hands());
            server.put_input(client.take_output());
            const auto theirs = server.shake_hands();
            client.put_input(server.take_output());
            if (mine == Progress::Done && theirs.ok() && *theirs == Progress::Done) {
                return ok();
            }
        }
        return Error{ErrorKind::Failed, "no end"};
    }
    [[nodiscard]] std::unique_ptr<TlsSession> psk(TlsRole role) const {
        return std::move(*TlsSession::create(*TlsCredentials::psk(role, folder_, "alice"), ""));
    }
    std::string folder_;
};

TEST_F(TlsTest, BothEndsWithTheKeyAgree) {
    write_key("5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a");
    const auto client = psk(TlsRole::Client), server = psk(TlsRole::Server);
    const auto done = shake_hands(*client, *server);
    EXPECT_TRUE(done.ok()) << done.error().text();
}

TEST_F(TlsTest, ACertificateIsNoSubstituteForTheKey) {
    write_key("5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a");
    write_certificate();
    const auto client = psk(TlsRole::Client);
    const auto credentials = TlsCredentials::x509(TlsRole::Server, folder_, false);
    ASSERT_TRUE(credentials.ok()) << credentials.error().text();
    const auto server = std::move(*TlsSession::create(*credentials, ""));
    const auto done = shake_hands(*client, *server);
    ASSERT_FALSE(done.ok());
    EXPECT_EQ(done.error().kind(), ErrorKind::PermissionDenied) << done.error().text();
}

TEST_F(TlsTest, ClientNeedsNoFolderWhereItHasWhatIsInIt) {
    write_key("5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a");
    const auto server = psk(TlsRole::Server);
    const auto keys = read_client_files(folder_, true);
    ASSERT_TRUE(keys.ok()) << keys.error().text();
    std::filesystem::remove(folder_ + "/keys.psk");
    EXPECT_FALSE(read_client_files(folder_, true).ok());
    EXPECT_FALSE(TlsCredentials::client_psk(*keys, "bob").ok());
    const auto client =
        std::move(*TlsSession::create(*TlsCredentials::client_psk(*keys, "alice"), ""));
    EXPECT_TRUE(shake_hands(*client, *server).ok());
}

TEST_F(TlsTest, CertificatesFromMemoryDecide) {
    EXPECT_FALSE(read_client_files(folder_, false).ok());  // no authority
    write_certificate();
    const auto credentials = TlsCredentials::x509(TlsRole::Server, folder_, false);
    ASSERT_TRUE(credentials.ok());
    const auto verdict = [&](const TlsFiles& files) {
        const auto made = TlsCredentials::client_x509(files, true);
        if (!made.ok()) {
            return Result<>(made.error());
        }
        const auto client = std::move(*TlsSession::create(*made, ""));
        const auto server = std::move(*TlsSession::create(*credentials, ""));
        return shake_hands(*client, *server);
    };
    const auto as_authority = [this] {
        std::filesystem::copy_file(folder_ + "/server-cert.pem", folder_ + "/ca-cert.pem",
                                   std::filesystem::copy_options::overwrite_existing);
        return read_client_files(folder_, false).value();
    };
    TlsFiles files = as_authority();
    EXPECT_EQ(files.size(), 1U);
    EXPECT_TRUE(verdict(files).ok());
    write_certificate();  // another authority
    EXPECT_FALSE(verdict(as_authority()).ok());
    files["client-cert.pem"] = files["ca-cert.pem"];
    EXPECT_FALSE(verdict(files).ok());  // a certificate and no key
    EXPECT_FALSE(verdict({{"ca-cert.pem", "nonsense"}}).ok());
    EXPECT_FALSE(verdict({}).ok());
}

TEST_F(TlsTest, AnotherKeyIsRefused) {
    write_key("5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a");
    const auto client = psk(TlsRole::Client);
    write_key("5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b");
    const auto server = psk(TlsRole::Server);
    EXPECT_FALSE(shake_hands(*client, *server).ok());
}

}  // namespace
}  // namespace strata::block::nbd
