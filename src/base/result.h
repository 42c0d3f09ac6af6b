// Result and Error: how every fallible function of Strata reports.
//
// A Result<T> holds a T or an Error. An Error is a small stable kind to branch on, a text (what
// went wrong, where, what to do), and it gathers context while it travels upward:
// `error.context("opening disk 'a.raw'")` prefixes the text. It is printed once, at the top.
// STRATA_TRY unwraps or returns early.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/check.h"

namespace strata {

/// What went wrong, coarse enough to branch on. The numbers are the exit statuses of the command
/// line.
enum class ErrorKind {
    Failed = 1,  ///< anything without a kind of its own (I/O errors, corrupt input, no space)
    InvalidArgument = 2,  ///< the request itself is malformed: wrong usage
    NotFound = 3,
    AlreadyExists = 4,
    WrongState = 5,
    PermissionDenied = 6,
    TimedOut = 7,
    Unreachable = 8,
    NotSupported = 9,
};

/// The process exit status that stands for `kind`.
[[nodiscard]] constexpr int exit_status(ErrorKind kind) {
    return static_cast<int>(kind);
}

/// A failure on its way up: a kind, a sentence, and optionally the errno behind it.
class [[nodiscard]] Error {
  public:
    Error(ErrorKind kind, std::string text, int system_errno = 0)
        : kind_(kind), errno_(system_errno), text_(std::move(text)) {}

    /// An error made of `errno` (or `number`): "TEXT: strerror". The kind follows the number
    /// (ENOENT is NotFound …).
    static Error from_errno(std::string_view text, int number);
    static Error from_errno(std::string_view text);

    [[nodiscard]] ErrorKind kind() const { return kind_; }
    [[nodiscard]] int system_errno() const { return errno_; }
    [[nodiscard]] const std::string& text() const { return text_; }

    /// Prefixes "CONTEXT: ". Returns itself so that it chains in a return statement.
    Error context(std::string_view prefix) && {
        text_.insert(0, ": ");
        text_.insert(0, prefix);
        return std::move(*this);
    }

  private:
    ErrorKind kind_;
    int errno_;
    std::string text_;
};

/// Stands for "no value" in Result<Unit>, spelled Result<>.
struct Unit {};

/// A value or the Error that took its place.
template <typename T = Unit>
class [[nodiscard]] Result {
  public:
    using Value = T;

    // `return value;` and `return error;` are the point.
    // NOLINTNEXTLINE(google-explicit-constructor)
    Result(T value) : content_(std::in_place_index<0>, std::move(value)) {}
    // NOLINTNEXTLINE(google-explicit-constructor)
    Result(Error error) : content_(std::in_place_index<1>, std::move(error)) {}
    // Lets a unique_ptr<Derived> become a Result<unique_ptr<Base>>; never a copy or a move.
    // NOLINTBEGIN(google-explicit-constructor,bugprone-forwarding-reference-overload)
    template <typename U>
    requires(std::is_convertible_v<U&&, T> && !std::is_same_v<std::remove_cvref_t<U>, T> &&
             !std::is_same_v<std::remove_cvref_t<U>, Error> &&
             !std::is_same_v<std::remove_cvref_t<U>, Result>) Result(U&& value)
        : content_(std::in_place_index<0>, std::forward<U>(value)) {}
    // NOLINTEND(google-explicit-constructor,bugprone-forwarding-reference-overload)

    [[nodiscard]] bool ok() const { return content_.index() == 0; }
    explicit operator bool() const { return ok(); }

    [[nodiscard]] T& value() & {
        STRATA_CHECK(ok(), "value() of a failed Result");
        return *std::get_if<0>(&content_);
    }
    [[nodiscard]] const T& value() const& {
        STRATA_CHECK(ok(), "value() of a failed Result");
        return *std::get_if<0>(&content_);
    }
    [[nodiscard]] T&& value() && {
        STRATA_CHECK(ok(), "value() of a failed Result");
        return std::move(*std::get_if<0>(&content_));
    }
    [[nodiscard]] const Error& error() const& {
        STRATA_CHECK(!ok(), "error() of a good Result");
        return *std::get_if<1>(&content_);
    }
    [[nodiscard]] Error&& error() && {
        STRATA_CHECK(!ok(), "error() of a good Result");
        return std::move(*std::get_if<1>(&content_));
    }
    T& operator*() & { return value(); }
    const T& operator*() const& { return value(); }
    T&& operator*() && { return std::move(*this).value(); }
    T* operator->() { return &value(); }
    const T* operator->() const { return &value(); }

  private:
    std::variant<T, Error> content_;
};

/// The good Result<>.
[[nodiscard]] inline Result<> ok() {
    return Unit{};
}

}  // namespace strata

/// Evaluates a Result expression; yields its value, or returns its Error from the enclosing
/// function. (A GNU statement expression: not for coroutines.)
#define STRATA_TRY(expression)                           \
    __extension__({                                      \
        auto strata_try_result = (expression);           \
        if (!strata_try_result.ok()) [[unlikely]]        \
            return std::move(strata_try_result).error(); \
        std::move(strata_try_result).value();            \
    })

/// As STRATA_TRY, for a Result<> whose value nobody wants.
#define STRATA_TRY_VOID(expression)                      \
    do {                                                 \
        auto strata_try_result = (expression);           \
        if (!strata_try_result.ok()) [[unlikely]]        \
            return std::move(strata_try_result).error(); \
    } while (false)
