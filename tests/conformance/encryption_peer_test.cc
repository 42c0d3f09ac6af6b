// Encrypted images, both ways: LUKS and AES in qcow2, LUKS volumes: what is written here QEMU
// deciphers, what it wrote is read here; cryptsetup's passphrases and headers, too.
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/amend.h"
#include "block/blocking_image.h"
#include "peer_test.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 8U << 20;

class EncryptionPeerTest : public PeerTest {
  protected:
    [[nodiscard]] Result<std::unique_ptr<BlockingImage>> open(const std::string& format,
                                                              const std::string& passphrase) const {
        OpenOptions options;
        options.path = folder_ + "/a";
        options.format = format;
        options.extra = {{format == "luks" ? "key-secret" : "encrypt.key-secret", passphrase}};
        return BlockingImage::open(std::move(options));
    }
    void create(const std::string& format, OptionList options) const {
        CreateRequest request;
        request.path = folder_ + "/a";
        request.size = kSize;
        request.options = std::move(options);
        const auto made = BlockingImage::create(format, std::move(request));
        ASSERT_TRUE(made.ok()) << made.error().text();
    }
    static std::vector<std::byte> pattern(std::size_t size, int value) {
        return std::vector<std::byte>(size, static_cast<std::byte>(value));
    }
    static void expect(BlockingImage& image, std::uint64_t offset, std::size_t size, int value) {
        std::vector<std::byte> got(size);
        const auto done = image.read(offset, got);
        ASSERT_TRUE(done.ok()) << done.error().text();
        EXPECT_TRUE(got == pattern(size, value)) << offset;
    }
    /// qemu-io on the encrypted image.
    [[nodiscard]] static std::string qemu_io(const std::string& format,
                                             const std::string& commands) {
        return fmt::format(
            "qemu-io --object secret,id=s,data=geheim {} --image-opts "
            "driver={},file.filename=a,{}=s",
            commands, format, format == "luks" ? "key-secret" : "encrypt.key-secret");
    }
    /// Writes here, reads there, writes there, reads here.
    void exchange(const std::string& format, bool unaligned) const {
        auto image = open(format, "geheim");
        ASSERT_TRUE(image.ok()) << image.error().text();
        ASSERT_TRUE((*image)->write(65536, pattern(200000 / 512 * 512, 7)).ok());
        ASSERT_TRUE((*image)->write_zeroes(131072, 65536, true).ok());
        ASSERT_TRUE((*image)->write(kSize - 512, pattern(512, 9)).ok());
        if (unaligned) {
            ASSERT_TRUE((*image)->write((4U << 20) + 100, pattern(1000, 5)).ok());
        }
        ASSERT_TRUE((*image)->close().ok());
        image->reset();
        shell(qemu_io(format,
                      "-c 'read -P 7 64k 64k' -c 'read -P 0 128k 64k' -c 'read -P 7 192k 64k' -c "
                      "'read -P 9 8388096 512'"));
        if (unaligned) {
            shell(qemu_io(format, "-c 'read -P 5 4194404 1000' -c 'read -P 0 4194304 100'"));
        }
        shell(qemu_io(format, "-c 'write -P 3 2M 1M' -c 'write -P 4 2100000 70000'"));
        image = open(format, "geheim");
        ASSERT_TRUE(image.ok()) << image.error().text();
        expect(**image, 2U << 20, 2096, 3);
        expect(**image, 2100000, 70000, 4);
        expect(**image, 65536, 65536, 7);
        ASSERT_TRUE((*image)->close().ok());
        image->reset();
        EXPECT_EQ(open(format, "falsch").ok(), format == "qcow2" && aes_);  // AES does not tell
    }
    bool aes_ = false;
};

TEST_F(EncryptionPeerTest, LuksInQcow2MadeHere) {
    for (const OptionList& more :
         {OptionList{}, OptionList{{"cluster_size", "512"}}, OptionList{{"compat", "0.10"}},
          OptionList{{"extended_l2", "on"}}, OptionList{{"preallocation", "metadata"}},
          OptionList{{"encrypt.cipher-alg", "aes-128"}},
          OptionList{{"encrypt.cipher-mode", "cbc"},
                     {"encrypt.ivgen-alg", "essiv"},
                     {"encrypt.hash-alg", "sha512"}}}) {
        SCOPED_TRACE(more.empty() ? "" : more[0].first + more[0].second);
        OptionList options{{"encrypt.format", "luks"},
                           {"encrypt.key-secret", "geheim"},
                           {"encrypt.iter-time", "10"}};
        options.insert(options.end(), more.begin(), more.end());
        create("qcow2", options);
        shell(
            "qemu-img check --object secret,id=s,data=geheim --image-opts "
            "driver=qcow2,file.filename=a,encrypt.key-secret=s");
        exchange("qcow2", true);
        shell(
            "qemu-img check --object secret,id=s,data=geheim --image-opts "
            "driver=qcow2,file.filename=a,encrypt.key-secret=s");
    }
}

TEST_F(EncryptionPeerTest, LuksInQcow2MadeThere) {
    // QEMU measures its speed in real time, which fails on a busy machine.
    shell(
        "for i in 1 2 3 4 5 6 7 8 9; do qemu-img create -f qcow2 --object secret,id=s,data=geheim "
        "-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 "
        "a 8M && break; rm -f a; done; true");
    if (!std::filesystem::exists(folder_ + "/a")) {
        GTEST_SKIP() << "qemu-img makes no LUKS image on a machine as busy as this one";
    }
    exchange("qcow2", true);
    OpenOptions bare;
    bare.path = folder_ + "/a";
    bare.format = "qcow2";
    EXPECT_FALSE(BlockingImage::open(std::move(bare)).ok());
}

TEST_F(EncryptionPeerTest, AesInQcow2) {
    aes_ = true;
    create("qcow2", {{"encryption", "on"}, {"encrypt.key-secret", "geheim"}});
    exchange("qcow2", true);
    shell(
        "rm a; qemu-img create -f qcow2 --object secret,id=s,data=geheim -o "
        "encrypt.format=aes,encrypt.key-secret=s a 8M");
    exchange("qcow2", true);
}

TEST_F(EncryptionPeerTest, LuksVolumes) {
    create("luks", {{"key-secret", "geheim"}, {"iter-time", "10"}});
    {
        auto image = open("luks", "geheim");
        ASSERT_TRUE(image.ok()) << image.error().text();
        ASSERT_TRUE((*image)->write_zeroes(0, kSize, false).ok());
        ASSERT_TRUE((*image)->close().ok());
        image->reset();
    }
    exchange("luks", true);
    if (std::system("command -v cryptsetup >/dev/null") ==
        0) {  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
        shell(
            "printf geheim | cryptsetup luksOpen --test-passphrase --key-file=- a && cryptsetup "
            "luksDump a | grep -q 'aes'");
    }
}

TEST_F(EncryptionPeerTest, Luks2VolumesOfCryptsetup) {
    if (std::system("command -v cryptsetup >/dev/null") !=
        0) {  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
        GTEST_SKIP() << "no cryptsetup here: install cryptsetup-bin";
    }
    // The payload cannot be compared without device mapper: cryptsetup's own header, our data, and
    // our data again.
    for (const char* options :
         {"--pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 65536",
          "--pbkdf pbkdf2 --pbkdf-force-iterations 1000",
          "--pbkdf argon2i --pbkdf-force-iterations 4 --pbkdf-memory 32768 --sector-size 4096",
          "--key-size 256 --pbkdf pbkdf2 --hash sha512"}) {
        SCOPED_TRACE(options);
        shell(
            fmt::format("rm -f a; truncate -s 32M a; printf geheim | cryptsetup luksFormat -q "
                        "--type luks2 {} a -",
                        options));
        {
            auto image = open("luks", "geheim");
            ASSERT_TRUE(image.ok()) << image.error().text();
            EXPECT_EQ((*image)->size(), 16U << 20);
            ASSERT_TRUE((*image)->write(12345, pattern(100000, 6)).ok());
            ASSERT_TRUE((*image)->close().ok());
            image->reset();
        }
        auto image = open("luks", "geheim");
        ASSERT_TRUE(image.ok()) << image.error().text();
        expect(**image, 12345, 100000, 6);
        EXPECT_FALSE(
            (*image)->loop().run((*image)->node().resize(1U << 20, Preallocation::Off)).ok());
        ASSERT_TRUE((*image)->close().ok());
        image->reset();
        EXPECT_FALSE(open("luks", "falsch").ok());
        shell("printf geheim | cryptsetup luksOpen --test-passphrase --key-file=- a");
        // One header is damaged: the other one counts. Both: an error.
        shell("printf x | dd of=a bs=1 seek=5000 conv=notrunc");
        EXPECT_TRUE(open("luks", "geheim").ok());
        shell("printf x | dd of=a bs=1 seek=21000 conv=notrunc");
        EXPECT_FALSE(open("luks", "geheim").ok());
    }
}

TEST_F(EncryptionPeerTest, Luks2IsMadeAsCryptsetupTakesIt) {
    if (::system("command -v cryptsetup >/dev/null") != 0) {  // NOLINT
        GTEST_SKIP() << "no cryptsetup here: install cryptsetup-bin";
    }
    const std::vector<OptionList> all = {
        {{"key-secret", "geheim"}, {"iter-time", "10"}},
        {{"key-secret", "geheim"}, {"iter-time", "150"}, {"kdf", "argon2i"}},
        {{"key-secret", "geheim"}, {"iter-time", "10"}, {"kdf", "pbkdf2"}, {"hash-alg", "sha512"}},
        {{"key-secret", "geheim"},
         {"iter-time", "10"},
         {"cipher-alg", "aes-128"},
         {"cipher-mode", "cbc"},
         {"ivgen-alg", "essiv"}}};
    for (OptionList options : all) {
        options.emplace_back("version", "2");
        shell("rm -f a");
        create("luks", std::move(options));
        {
            auto image = open("luks", "geheim");
            ASSERT_TRUE(image.ok()) << image.error().text();
            ASSERT_TRUE((*image)->write(12345, pattern(100000, 6)).ok());
            ASSERT_TRUE((*image)->close().ok());
        }
        shell("cryptsetup luksDump a | grep -q 'Version:.*2'");
        shell("printf geheim | cryptsetup luksOpen --test-passphrase --key-file=- a");
        shell("! printf falsch | cryptsetup luksOpen --test-passphrase --key-file=- a");
        // Another key by cryptsetup, which writes both headers: what was written is there with it.
        shell(
            "printf geheim >key1; printf neu >key2; cryptsetup luksAddKey -q --pbkdf pbkdf2 "
            "--pbkdf-force-iterations 1000 --key-file key1 a key2");
        auto image = open("luks", "neu");
        ASSERT_TRUE(image.ok()) << image.error().text();
        expect(**image, 12345, 100000, 6);
        ASSERT_TRUE((*image)->close().ok());
        image->reset();
        // One header is damaged: the other one counts, for both programs.
        shell("printf x | dd of=a bs=1 seek=5000 conv=notrunc");
        shell("printf geheim | cryptsetup luksOpen --test-passphrase --key-file=- a");
        EXPECT_TRUE(open("luks", "geheim").ok());
    }
}

TEST_F(EncryptionPeerTest, KeysComeAndGo) {
    for (const std::string format : {"qcow2", "luks"}) {
        SCOPED_TRACE(format);
        const std::string prefix = format == "luks" ? "" : "encrypt.";
        OptionList options{{prefix + "key-secret", "geheim"}, {prefix + "iter-time", "10"}};
        if (format == "qcow2") {
            options.emplace_back("encrypt.format", "luks");
        }
        create(format, options);
        const auto amend = [&](OptionList changes, bool force) -> Result<> {
            auto image = STRATA_TRY(open(format, "geheim"));
            AmendRequest request;
            for (auto& [name, value] : changes) {
                request.options.emplace_back(prefix + name, value);
            }
            request.force = force;
            auto done = image->loop().run(
                amend_image(image->node().shared_from_this(), std::move(request)));
            STRATA_TRY_VOID(image->close());
            return done;
        };
        ASSERT_TRUE(
            amend({{"state", "active"}, {"new-secret", "zweite"}, {"iter-time", "10"}}, false)
                .ok());
        ASSERT_TRUE(amend({{"state", "active"},
                           {"keyslot", "5"},
                           {"new-secret", "dritte"},
                           {"iter-time", "10"}},
                          false)
                        .ok());
        EXPECT_FALSE(amend({{"state", "active"},
                            {"keyslot", "5"},
                            {"new-secret", "vierte"},
                            {"iter-time", "10"}},
                           false)
                         .ok());
        EXPECT_FALSE(amend({{"state", "inactive"}}, false).ok());
        EXPECT_FALSE(amend({{"state", "inactive"}, {"keyslot", "9"}}, false).ok());
        EXPECT_TRUE(open(format, "zweite").ok());
        shell(
            fmt::format("qemu-io --object secret,id=s,data=dritte -c 'write -P 3 1M 64k' "
                        "--image-opts driver={},file.filename=a,{}key-secret=s",
                        format, prefix));
        ASSERT_TRUE(amend({{"state", "inactive"}, {"old-secret", "zweite"}}, false).ok());
        EXPECT_FALSE(open(format, "zweite").ok());
        ASSERT_TRUE(amend({{"state", "inactive"}, {"keyslot", "5"}}, false).ok());
        EXPECT_FALSE(open(format, "dritte").ok());
        EXPECT_FALSE(amend({{"state", "inactive"}, {"keyslot", "0"}}, false).ok());
        auto image = open(format, "geheim");
        ASSERT_TRUE(image.ok());
        expect(**image, 1U << 20, 65536, 3);
        ASSERT_TRUE((*image)->close().ok());
        image->reset();
        ASSERT_TRUE(amend({{"state", "inactive"}, {"keyslot", "0"}}, true).ok());
        EXPECT_FALSE(open(format, "geheim").ok());
    }
}

TEST_F(EncryptionPeerTest, EncryptedOverlaysAndSnapshots) {
    shell("qemu-img create -f raw base 8M && qemu-io -f raw -c 'write -P 8 0 8M' base");
    CreateRequest request;
    request.path = folder_ + "/a";
    request.size = kSize;
    request.options = {{"backing_file", "base"},
                       {"backing_fmt", "raw"},
                       {"encrypt.format", "luks"},
                       {"encrypt.key-secret", "geheim"},
                       {"encrypt.iter-time", "10"}};
    ASSERT_TRUE(BlockingImage::create("qcow2", std::move(request)).ok());
    {
        OpenOptions options;
        options.path = folder_ + "/a";
        options.format = "qcow2";
        options.references = follow_references();
        options.extra = {{"encrypt.key-secret", "geheim"}};
        auto image = BlockingImage::open(std::move(options));
        ASSERT_TRUE(image.ok()) << image.error().text();
        ASSERT_TRUE((*image)->write(100000, pattern(1000, 1)).ok());
        ASSERT_TRUE((*image)->loop().run((*image)->node().create_snapshot(SnapshotInfo{})).ok());
        ASSERT_TRUE((*image)->write(100000, pattern(500, 2)).ok());
        expect(**image, 99000, 1000, 8);
        ASSERT_TRUE((*image)->close().ok());
        image->reset();
    }
    shell(qemu_io("qcow2",
                  "-c 'read -P 2 100000 500' -c 'read -P 1 100500 500' -c 'read -P 8 101000 1000' "
                  "-c 'read -P 8 0 100000'"));
    shell(
        "qemu-img check --object secret,id=s,data=geheim --image-opts "
        "driver=qcow2,file.filename=a,encrypt.key-secret=s");
}

}  // namespace
}  // namespace strata::block
