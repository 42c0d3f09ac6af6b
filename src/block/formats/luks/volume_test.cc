// Tests of LUKS headers and secrets: made, parsed, opened; what would cost too much or cannot be is
// refused.
#include <gtest/gtest.h>

#include "block/formats/luks/header.h"
#include "block/formats/luks/header2.h"
#include "block/formats/luks/volume_key.h"
#include "block/secrets.h"

namespace strata::block::luks {
namespace {

Header sound() {
    Header h;
    h.cipher = "aes";
    h.mode = "xts-plain64";
    h.hash = "sha256";
    h.uuid = "12345678-1234-4234-8234-123456789abc";
    h.payload = 1U << 20;
    h.key_bytes = 64;
    h.digest_iterations = 1000;
    for (std::size_t i = 0; i < 8; ++i) {
        h.slots.at(i).offset = 4096 + i * 65536;
    }
    h.slots[2].active = true;
    h.slots[2].iterations = 1000;
    h.slots[2].stripes = 10;
    return h;
}

TEST(LuksHeaderTest, IsParsedAsItWasWritten) {
    const auto back = parse_header(serialise_header(sound()), 4U << 20, "x");
    ASSERT_TRUE(back.ok()) << back.error().text();
    EXPECT_EQ(back->mode, "xts-plain64");
    EXPECT_EQ(back->uuid, sound().uuid);
    EXPECT_TRUE(back->slots[2].active);
    EXPECT_FALSE(back->slots[3].active);
}

TEST(LuksHeaderTest, WhatCostsTooMuchOrCannotBeIsRefused) {
    for (const auto& damage : std::vector<void (*)(Header&)>{
             [](Header& h) { h.slots[2].iterations = 0xFFFFFFFF; },
             [](Header& h) { h.digest_iterations = 0xFFFFFFFF; },
             [](Header& h) { h.digest_iterations = 0; },
             [](Header& h) { h.slots[2].stripes = 0xFFFFFFFF; },
             [](Header& h) { h.slots[2].stripes = 0; }, [](Header& h) { h.slots[2].offset = 0; },
             [](Header& h) { h.slots[2].offset = 8U << 20; }, [](Header& h) { h.key_bytes = 0; },
             [](Header& h) { h.key_bytes = 1U << 30; }, [](Header& h) { h.payload = 0; },
             [](Header& h) { h.payload = 8U << 20; }}) {
        Header h = sound();
        damage(h);
        EXPECT_FALSE(parse_header(serialise_header(h), 4U << 20, "x").ok());
    }
}

TEST(LuksHeader2Test, SlotsAndDigestsAreOneOfEach) {
    Header2 h;
    h.sequence = 1;
    h.payload = 1U << 20;
    h.encryption = "aes-xts-plain64";
    Slot2 slot;
    slot.key_bytes = slot.area_key_bytes = 64;
    slot.kdf.type = "pbkdf2";
    slot.kdf.hash = "sha256";
    slot.kdf.iterations = 1000;
    slot.kdf.salt = {std::byte{1}};
    slot.af_hash = "sha256";
    slot.stripes = 4;
    slot.offset = 65536;
    slot.length = 4096;
    slot.encryption = h.encryption;
    h.slots.push_back(slot);
    Digest2 digest;
    digest.slots = {"0"};
    digest.hash = "sha256";
    digest.iterations = 1000;
    digest.salt = digest.digest = {std::byte{1}};
    h.digests.push_back(digest);
    const auto parsed = [](const Header2& header) {
        return parse_header2(serialise_header2(header, 65536).value(), 4U << 20, "x");
    };
    ASSERT_TRUE(parsed(h).ok()) << parsed(h).error().text();
    Header2 newer = h;
    newer.sequence = 9;
    auto both = serialise_header2(h, 65536).value(),
         stale = serialise_header2(newer, 65536).value();
    both.insert(both.end(), stale.begin() + kHeader2Bytes, stale.end());
    EXPECT_EQ(parse_header2(both, 4U << 20, "x")->sequence, 1U) << "another volume's";
    Header2 twice = h;
    twice.digests.push_back(digest);
    EXPECT_FALSE(parsed(twice).ok());
    Header2 large = h;
    large.slots[0].number = 32;
    EXPECT_FALSE(parsed(large).ok());
}

TEST(LuksKeyTest, ASlotGivesItsKeyBackToItsPassphraseAlone) {
    for (const char* hash : {"sha1", "sha256", "sha512"}) {
        Header h = sound();
        h.hash = hash;
        Secret key(h.key_bytes);
        ASSERT_TRUE(fill_random(key.bytes()).ok());
        ASSERT_TRUE(seal(h, key, 1).ok());
        const auto material = fill_slot(h, h.slots[0], key, "geheim", 1);
        ASSERT_TRUE(material.ok()) << material.error().text();
        EXPECT_GE(h.slots[0].iterations, 1000U);
        const auto back = open_slot(h, h.slots[0], *material, "geheim");
        ASSERT_TRUE(back.ok()) << back.error().text();
        EXPECT_TRUE(std::equal(back->bytes().begin(), back->bytes().end(), key.bytes().begin()));
        EXPECT_EQ(open_slot(h, h.slots[0], *material, "falsch").error().kind(),
                  ErrorKind::PermissionDenied);
    }
}

TEST(SecretsTest, PlainBase64AndEncrypted) {
    EXPECT_EQ(*load_secret({.data = "a\nb"}), "a\nb");
    EXPECT_EQ(*load_secret({.data = "Z2VoZWlt", .base64 = true}), "geheim");
    EXPECT_EQ(*load_secret({.data = "Z2VoZWk=\n", .base64 = true}), "gehei");
    EXPECT_EQ(*load_secret({.data = "Z2VoZQ==", .base64 = true}), "gehe");
    for (const char* bad : {"Z2V*", "Z", "Z2VoZ", "Z===", "Z2VoZQ=", "Z2=oZQ=="}) {
        EXPECT_FALSE(load_secret({.data = bad, .base64 = true}).ok()) << bad;
    }
    EXPECT_FALSE(load_secret({}).ok());
    for (const char* good : {"", "abc", "\xC3\xBC", "\xE2\x82\xAC", "\xF0\x9F\x94\x91"}) {
        EXPECT_TRUE(is_utf8(good)) << good;
    }
    for (const char* bad : {"\x80", "\xC3", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80",
                            "\xF4\x90\x80\x80", "\xFF", "a\xE2\x82"}) {
        EXPECT_FALSE(is_utf8(bad));
    }
    EXPECT_FALSE(load_secret({.data = "a", .file = "b"}).ok());
    EXPECT_FALSE(load_secret({.file = "/nowhere/at/all"}).ok());
    EXPECT_FALSE(load_secret({.data = "a", .key = "short", .iv = "AAAA"}).ok());
}

}  // namespace
}  // namespace strata::block::luks
