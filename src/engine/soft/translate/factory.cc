// Translator factory: executors that share one Translator, and the developer's switches.
#include "engine/soft/translate/factory.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <unistd.h>

#include "engine/soft/translate/translator.h"

namespace strata::engine::soft {
namespace {

class SharedExecutor final : public Executor {
  public:
    explicit SharedExecutor(Translator& translator) : translator_(translator) {}
    ExecResult run(CpuState& cpu) noexcept override { return translator_.run(cpu); }
    [[nodiscard]] std::uint64_t blocks_translated() const noexcept override {
        return translator_.blocks_translated();
    }

  private:
    Translator& translator_;
};

class TranslatorFactory final : public ExecutorFactory {
  public:
    TranslatorFactory(std::unique_ptr<Translator> translator, const TranslateOptions& options)
        : translator_(std::move(translator)),
          report_(options.report),
          profile_fd_(options.profile_fd) {}
    TranslatorFactory(const TranslatorFactory&) = delete;
    TranslatorFactory& operator=(const TranslatorFactory&) = delete;
    ~TranslatorFactory() override {
        if (profile_fd_ >= 0) {
            write_profile();
        }
        if (report_) {
            (void)std::fputs(translator_->report().c_str(),
                             stderr);  // a report that cannot be written is no error
        }
    }
    std::unique_ptr<Executor> make_executor(CpuState&) override {
        return std::make_unique<SharedExecutor>(*translator_);
    }
    CodeInvalidator* invalidator() override { return translator_.get(); }

  private:
    void write_profile() {
        const std::string text = translator_->profile();
        for (std::size_t done = 0; done < text.size();) {
            const ssize_t count = ::write(profile_fd_, text.data() + done, text.size() - done);
            if (count <= 0 && errno != EINTR) {
                std::fprintf(stderr, "strata: the profile could not be written: %s\n",
                             std::strerror(errno));
                return;
            }
            done += count > 0 ? static_cast<std::size_t>(count) : 0;
        }
    }
    std::unique_ptr<Translator> translator_;
    bool report_;
    int profile_fd_;
};

struct Switch {
    std::string_view word;
    bool TranslateOptions::*field;
    bool value;
};

constexpr std::array kSwitches = {
    Switch{"no-groups", &TranslateOptions::group_stack, false},
    Switch{"no-runs", &TranslateOptions::group_runs, false},
    Switch{"no-held", &TranslateOptions::hold_registers, false},
    Switch{"no-loops", &TranslateOptions::hoist_loops, false},
    Switch{"no-quick-fills", &TranslateOptions::quick_fills, false},
    Switch{"no-unroll", &TranslateOptions::unroll_loops, false},
    Switch{"no-extend", &TranslateOptions::extend_blocks, false},
    Switch{"no-chain", &TranslateOptions::chain, false},
    Switch{"no-page-chain", &TranslateOptions::chain_pages, false},
    Switch{"no-jump-cache", &TranslateOptions::jump_cache, false},
    Switch{"no-return-stack", &TranslateOptions::return_stack, false},
    Switch{"exact-flags", &TranslateOptions::track_flags, false},
    Switch{"no-vectors", &TranslateOptions::vectors, false},
    Switch{"no-floating", &TranslateOptions::float_blocks, false},
    Switch{"float-all", &TranslateOptions::float_all, true},
    Switch{"no-checked", &TranslateOptions::check_rewritten, false},
    Switch{"check-early", &TranslateOptions::check_early, true},
    Switch{"no-inline-system", &TranslateOptions::inline_system, false},
    Switch{"no-direct-faults", &TranslateOptions::direct_faults, false},
    Switch{"no-direct-system", &TranslateOptions::direct_system, false},
    Switch{"no-in-place", &TranslateOptions::interpret_in_place, false},
    Switch{"small-cache", &TranslateOptions::small_cache, true},
    Switch{"direct", &TranslateOptions::direct, true},
    Switch{"no-direct", &TranslateOptions::no_direct, true},
    Switch{"always-direct", &TranslateOptions::always_direct, true},
    Switch{"trace-decode", &TranslateOptions::trace_decode, true},
    Switch{"trace-blocks", &TranslateOptions::trace_blocks, true},
    Switch{"trace-code", &TranslateOptions::trace_code, true},
    Switch{"trace-exits", &TranslateOptions::trace_exits, true},
    Switch{"report", &TranslateOptions::report, true},
};

}  // namespace

Result<std::unique_ptr<ExecutorFactory>> make_translator_factory(SoftVm& vm,
                                                                 const TranslateOptions& options,
                                                                 std::uint64_t cache_bytes) {
    auto translator = STRATA_TRY(Translator::create(vm, options, cache_bytes));
    return std::unique_ptr<ExecutorFactory>(
        std::make_unique<TranslatorFactory>(std::move(translator), options));
}

Result<TranslateOptions> parse_translate_options(std::string_view text) {
    TranslateOptions options;
    while (!text.empty()) {
        const std::size_t comma = text.find(',');
        const std::string_view word = text.substr(0, comma);
        text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
        bool known = word == "single";
        if (known) {
            options.max_units = 1;
        }
        if (word == "trace") {
            options.trace_blocks = options.trace_decode = options.trace_code = known = true;
        }
        for (const Switch& entry : kSwitches) {
            if (entry.word == word) {
                options.*entry.field = entry.value;
                known = true;
            }
        }
        if (!known) {
            return Error(ErrorKind::InvalidArgument,
                         "unknown translator option '" + std::string(word) + "'");
        }
    }
    return options;
}

}  // namespace strata::engine::soft
