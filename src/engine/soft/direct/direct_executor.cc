// DirectExecutor: the choice between the two.
#include "engine/soft/direct/direct_executor.h"

#include <cstdio>
#include <utility>

#include "engine/soft/direct/direct_runner.h"

namespace strata::engine::soft {
namespace {

class DirectExecutor final : public Executor {
  public:
    DirectExecutor(CpuState& cpu, std::unique_ptr<Executor> translator,
                   std::shared_ptr<Zygote> zygote, std::uint64_t tsc_khz, DirectOptions options)
        : translator_(std::move(translator)),
          zygote_(std::move(zygote)),
          runner_(cpu, *zygote_, tsc_khz, options.always),
          report_(options.report) {}
    DirectExecutor(const DirectExecutor&) = delete;
    DirectExecutor& operator=(const DirectExecutor&) = delete;
    ~DirectExecutor() override {
        if (report_) {
            (void)std::fputs(runner_.report().c_str(),
                             stderr);  // a report that cannot be written is no error
        }
    }

    void prepare_thread(CpuState& cpu) noexcept override { translator_->prepare_thread(cpu); }
    void kick() noexcept override { runner_.kick(); }
    [[nodiscard]] std::uint64_t blocks_translated() const noexcept override {
        return translator_->blocks_translated();
    }

    [[nodiscard]] std::uint64_t direct_runs() const noexcept override { return runner_.runs(); }

    ExecResult run(CpuState& cpu) noexcept override {
        for (;;) {
            if (std::exchange(cpu.direct->enter, false) && cpu.cpl == 3) {
                switch (runner_.run()) {
                    case DirectRunner::Outcome::Polled:
                        cpu.direct->enter =
                            true;  // if it is still there when the requests are served
                        return ExecResult::Polled;
                    case DirectRunner::Outcome::Exception:
                        return ExecResult::Exception;
                    case DirectRunner::Outcome::Refused:
                        break;
                }
            }
            const ExecResult result = translator_->run(cpu);
            // What the return has let in goes first: nothing in a stub would look for it.
            if (result != ExecResult::Polled || !cpu.direct->enter || window_open(cpu, true) ||
                cpu.request.load(std::memory_order_acquire) != 0) {
                return result;
            }
        }
    }

  private:
    std::unique_ptr<Executor> translator_;
    std::shared_ptr<Zygote> zygote_;
    DirectRunner runner_;
    bool report_;
};

class DirectFactory final : public ExecutorFactory {
  public:
    DirectFactory(std::unique_ptr<ExecutorFactory> translator, std::shared_ptr<Zygote> zygote,
                  std::uint64_t tsc_khz, DirectOptions options)
        : translator_(std::move(translator)),
          zygote_(std::move(zygote)),
          tsc_khz_(tsc_khz),
          options_(options) {}
    std::unique_ptr<Executor> make_executor(CpuState& cpu) override {
        return std::make_unique<DirectExecutor>(cpu, translator_->make_executor(cpu), zygote_,
                                                tsc_khz_, options_);
    }
    CodeInvalidator* invalidator() override { return translator_->invalidator(); }

  private:
    std::unique_ptr<ExecutorFactory> translator_;
    std::shared_ptr<Zygote> zygote_;
    std::uint64_t tsc_khz_;
    DirectOptions options_;
};

}  // namespace

std::unique_ptr<ExecutorFactory> make_direct_factory(std::unique_ptr<ExecutorFactory> translator,
                                                     std::shared_ptr<Zygote> zygote,
                                                     std::uint64_t tsc_khz, DirectOptions options) {
    return std::make_unique<DirectFactory>(std::move(translator), std::move(zygote), tsc_khz,
                                           options);
}

}  // namespace strata::engine::soft
