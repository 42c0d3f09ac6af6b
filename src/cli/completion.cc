// Completion: `strata completion SHELL` prints a small script; the script asks the hidden `strata
// __complete WORD…`, which answers from the command tables, so that options and image names are
// always those of the installed program.
//
// A candidate is a line "value" or "value<TAB>description"; the line ":files" asks the shell for
// file names.
#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/text.h"
#include "block/registry.h"
#include "cli/arguments.h"
#include "cli/command_list.h"
#include "cli/image/store.h"
#include "cli/output.h"

namespace strata::cli {
namespace {

constexpr std::string_view kBash =
    R"sh(# bash completion for strata; load with: source <(strata completion bash)
_strata() {
    local line value
    COMPREPLY=()
    while IFS= read -r line; do
        value=${line%%$'\t'*}
        if [ "$value" = ":files" ]; then
            compopt -o filenames 2>/dev/null
            mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
        else
            COMPREPLY+=("$value")
        fi
    done < <(COMP_WORDBREAKS=" " strata __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _strata strata
)sh";

constexpr std::string_view kZsh = R"sh(#compdef strata
# zsh completion for strata; put it into a folder of $fpath as _strata, or: source <(strata completion zsh)
_strata() {
    local -a candidates
    local line files=0
    while IFS= read -r line; do
        if [[ $line == ":files" ]]; then
            files=1
        else
            candidates+=("${${line//:/\\:}/$'\t'/:}")
        fi
    done < <(strata __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( ${#candidates} )) && _describe 'strata' candidates
    (( files )) && _files
}
compdef _strata strata
)sh";

constexpr std::string_view kFish =
    R"sh(# fish completion for strata; load with: strata completion fish | source
function __strata_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in (strata __complete $words[2..-1] 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c strata -f -a '(__strata_complete)'
)sh";

constexpr std::array<Positional, 1> kShellPositional = {
    {{"SHELL", "bash, zsh or fish.", true, Completes::Choices, "bash|zsh|fish"}}};

Result<int> run_completion(const Arguments& arguments) {
    const std::string_view shell = *arguments.positional(0);
    if (shell == "bash" || shell == "zsh" || shell == "fish") {
        print_out(shell == "bash" ? kBash : shell == "zsh" ? kZsh : kFish);
        return 0;
    }
    return Error{ErrorKind::InvalidArgument,
                 fmt::format("no completion for '{}': use bash, zsh or fish", shell)};
}

Result<int> run_complete(const Arguments&) {
    return 0;
}

// Collects the candidates that begin with what was typed.
class Candidates {
  public:
    explicit Candidates(std::string_view typed) : typed_(typed) {}
    void add(std::string_view value, std::string_view help = "") {
        if (value.starts_with(typed_) && seen_.insert(std::string(value)).second) {
            text_ +=
                help.empty() ? fmt::format("{}\n", value) : fmt::format("{}\t{}\n", value, help);
        }
    }
    void add_files() { text_ += ":files\n"; }
    void add_values(Completes completes, std::string_view choices) {
        switch (completes) {
            case Completes::Nothing:
                return;
            case Completes::Choices:
                for (const std::string_view choice : split(choices, '|')) {
                    add(choice);
                }
                return;
            case Completes::Files:
                return add_files();
            case Completes::Images:
                for (const std::string& name : image_names()) {
                    add(name);
                }
                return;
            case Completes::Formats:
            case Completes::NewFormats:
                for (const block::FormatDriver& driver : block::format_drivers()) {
                    if (completes == Completes::Formats || driver.create != nullptr) {
                        add(driver.name);
                    }
                }
                return;
        }
    }
    [[nodiscard]] const std::string& text() const { return text_; }

  private:
    std::string_view typed_;
    std::set<std::string> seen_;
    std::string text_;
};

const Option* option_named(const Command& command, std::string_view word) {
    for (const std::span<const Option> table : {command.options, common_options()}) {
        for (const Option& option : table) {
            if (!option.value.empty() &&
                (option.name == word || (word.size() == 2 && option.letter == word[1]))) {
                return &option;
            }
        }
    }
    return nullptr;
}

void complete_command_names(std::span<const std::string_view> before, Candidates& candidates) {
    for (const Command* command : commands()) {
        const std::vector<std::string_view> parts = split(command->name, ' ');
        const bool fits =
            parts.size() > before.size() && std::equal(before.begin(), before.end(), parts.begin());
        if (fits && !command->summary.empty()) {
            candidates.add(parts[before.size()],
                           parts.size() == before.size() + 1 ? command->summary : "");
        }
    }
}

// How many positionals stand in `words`, options and their values left out.
std::size_t positionals_in(const Command& command, std::span<const std::string_view> words) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < words.size(); ++i) {
        if (words[i].size() > 1 && words[i].front() == '-') {
            i += option_named(command, words[i]) != nullptr ? 1 : 0;
        } else {
            ++count;
        }
    }
    return count;
}

}  // namespace

Result<int> complete_words(std::span<const std::string_view> words) {
    const std::string_view typed = words.empty() ? std::string_view() : words.back();
    const std::span<const std::string_view> before =
        words.empty() ? words : words.first(words.size() - 1);
    Candidates candidates(typed);
    std::size_t used = 0;
    const Command* command = find_command(before, used);
    const Option* waiting =
        command != nullptr && !before.empty() ? option_named(*command, before.back()) : nullptr;
    if (command == nullptr) {
        complete_command_names(before, candidates);
    } else if (waiting != nullptr) {
        candidates.add_values(waiting->completes, waiting->value);
    } else if (typed.starts_with("-")) {
        for (const std::span<const Option> table : {command->options, common_options()}) {
            for (const Option& option : table) {
                candidates.add(option.name, option.help);
            }
        }
    } else {
        std::size_t place = positionals_in(*command, before.subspan(used));
        if (!command->positionals.empty() && command->positionals.back().repeatable) {
            place = std::min(place, command->positionals.size() - 1);
        }
        if (place < command->positionals.size()) {
            const Positional& positional = command->positionals[place];
            candidates.add_values(positional.completes, positional.choices);
        }
    }
    print_out(candidates.text());
    return 0;
}

const Command kCompletionCommand = {
    .name = "completion",
    .summary = "Print the completion script for a shell",
    .description = "",
    .positionals = kShellPositional,
    .options = {},
    .examples = "  source <(strata completion bash)\n  strata completion fish | source",
    .run = run_completion,
};

const Command kCompleteCommand = {
    .name = "__complete",
    .summary = "",
    .description = "",
    .positionals = {},
    .options = {},
    .examples = "",
    .run = run_complete,
};

}  // namespace strata::cli
