"""The text of the completion scripts, one function for each shell. See ``completion``."""

from __future__ import annotations

from collections.abc import Iterable

from assay.cli.completion import FILES, Place, Tree


def bash(tree: Tree) -> str:
    """A function for ``complete -F``. Bash splits ``--output=x`` and ``a:b`` into three words each."""
    values = "".join(f"        {name}) candidates={_sh(' '.join(words))} ;;\n" for name, words in tree.values.items())
    places = "".join(
        f"            {_sh(place.path)})\n"
        f"                options={_sh(' '.join(place.options))}\n"
        f"                words={_sh(' '.join([*place.subcommands, *place.values]))} ;;\n"
        for place in tree.places
    )
    return f"""# bash completion for assay; made by: assay completion bash
_assay() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    local at=assay skip='' i word candidates='' options='' words=''
    COMPREPLY=()
    if [[ $current == [:=] ]]; then
        current=''
    elif [[ $previous == = && $COMP_CWORD -ge 2 ]]; then
        previous=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    for (( i = 1; i < COMP_CWORD; i++ )); do
        word=${{COMP_WORDS[i]}}
        if [[ $skip ]]; then
            [[ $word == = ]] || skip=''
            continue
        fi
        case $word in
            {"|".join(tree.with_value)}) skip=1 ;;
            -*) ;;
            *)
                case "$at $word" in
                    {"|".join(_sh(path) for path in _paths(tree))}) at="$at $word" ;;
                esac ;;
        esac
    done
    case $previous in
{values}        {"|".join((*tree.free, *FILES))}) return ;;
        {"|".join(tree.live_options)}) _assay_live; return ;;
        *)
            case $at in
{places}            esac
            if [[ $current == -* ]]; then
                candidates=$options
            else
                case $at in
                    {"|".join(map(_sh, tree.live_places))}) _assay_live; return ;;
                esac
                candidates=$words
            fi ;;
    esac
    COMPREPLY=( $(compgen -W "$candidates" -- "$current") )
}}
# Asks the engine. Bash broke the words at = and :, and wants no more than what follows the last of these.
_assay_live() {{
    local kept name i joined=''
    local -a typed=()
    for (( i = 1; i <= COMP_CWORD; i++ )); do
        name=${{COMP_WORDS[i]//[\\\\\\"\\']/}}
        if [[ ( $joined || $name == [:=] ) && ${{#typed[@]}} -gt 0 ]]; then
            typed[${{#typed[@]}}-1]+=$name
        else
            typed+=("$name")
        fi
        joined=''
        [[ $name == [:=] ]] && joined=1
    done
    name=${{typed[${{#typed[@]}}-1]}}
    [[ $name == --*=* ]] && name=${{name#*=}}
    kept=${{name%"${{name##*[:=]}}"}}
    while IFS= read -r name; do
        name=${{name#"$kept"}}
        [[ $name == *[!a-zA-Z0-9_.,/@:+=-]* ]] && name=$(printf %q "$name")
        COMPREPLY+=("$name")
    done < <("${{COMP_WORDS[0]/#\\~/${{HOME-}}}}" __complete -- "${{typed[@]}}" 2>/dev/null)
}}
complete -o default -F _assay assay
"""


def zsh(tree: Tree) -> str:
    """A completion function that works sourced and from ``fpath``."""
    values = "".join(
        f"        ({name}) compadd -- {' '.join(words)}; return ;;\n" for name, words in tree.values.items()
    )
    places = "".join(_zsh_place(place) for place in tree.places)
    return f"""#compdef assay
# zsh completion for assay; made by: assay completion zsh
_assay() {{
    local at=assay skip='' word current=$words[CURRENT] typed=$words[CURRENT] previous='' i
    local -a options subcommands
    (( CURRENT > 1 )) && previous=$words[CURRENT-1]
    for (( i = 2; i < CURRENT; i++ )); do
        word=$words[i]
        if [[ -n $skip ]]; then
            skip=''
            continue
        fi
        case $word in
            ({"|".join(tree.with_value)}) skip=1 ;;
            (-*) ;;
            (*)
                case "$at $word" in
                    ({"|".join(_sh(path) for path in _paths(tree))}) at="$at $word" ;;
                esac ;;
        esac
    done
    if [[ $current == --*=* ]]; then
        previous=${{current%%=*}}
        compset -P '*='
        current=''
    fi
    case $previous in
{values}        ({"|".join((*tree.free, *FILES))}) _files; return ;;
        ({"|".join(tree.live_options)}) _assay_live; return ;;
    esac
    case $at in
{places}    esac
    if [[ $current == -* ]]; then
        _describe -o 'option' options
    elif [[ $at == ({"|".join(_sh(path) for path in tree.live_places)}) ]]; then
        _assay_live
    elif (( $#subcommands )); then
        _describe 'command' subcommands
    else
        _files
    fi
}}
_assay_live() {{
    local -a found
    local program="${{(Q)words[1]/#\\~/${{HOME-}}}}"
    found=(${{(f)"$($program __complete -- "${{(@Q)words[2,CURRENT-1]}}" "${{(Q)typed}}" 2>/dev/null)"}})
    (( $#found )) && compadd -- $found
}}
if [[ $funcstack[1] == _assay ]]; then
    _assay "$@"
elif (( $+functions[compdef] )); then
    compdef _assay assay
fi
"""


def _zsh_place(place: Place) -> str:
    options = (f"{name}:{text}" for name, text in place.options.items())
    words = [f"{name}:{text}" for name, text in place.subcommands.items()] + place.values
    return (
        f"        ({_sh(place.path)})\n"
        f"            options=({' '.join(map(_sh, options))})\n"
        f"            subcommands=({' '.join(map(_sh, words))}) ;;\n"
    )


def fish(tree: Tree) -> str:
    """One ``complete`` line for each candidate, valid at one command."""
    lines = ["complete -c assay -f"]
    for place in tree.places:
        where = f"complete -c assay -n {_fish(f'__assay_at {_fish(place.path)}')}"
        lines += [f"{where} -a {name} -d {_fish(text)}" for name, text in place.subcommands.items()]
        lines += [f"{where} -a {_fish(' '.join(place.values))}"] if place.values else []
        lines += [f"{where} -a '(__assay_live)'"] if place.path in tree.live_places else []
        lines += [f"{where} -F"] if place.takes_file else []
        lines += [f"{where} {_fish_option(tree, name)} -d {_fish(text)}" for name, text in place.options.items()]
    return f"""# fish completion for assay; made by: assay completion fish
function __assay_at --description 'Whether the words before the cursor lead to this command'
    set -l at assay
    set -l skip ''
    set -l tokens (commandline -opc)
    for token in $tokens[2..-1]
        if test -n "$skip"
            set skip ''
            continue
        end
        if contains -- $token {" ".join(tree.with_value)}
            set skip 1
        else if contains -- "$at $token" {" ".join(map(_fish, _paths(tree)))}
            set at "$at $token"
        end
    end
    test "$at" = "$argv[1]"
end
function __assay_live --description 'Names that the engine knows'
    set -l tokens (commandline -opc)
    set -l current (string unescape -- (commandline -ct))
    test -n "$current"; or set current (commandline -ct)
    command $tokens[1] __complete -- $tokens[2..-1] "$current" 2>/dev/null
end
{chr(10).join(lines)}
"""


def _fish_option(tree: Tree, name: str) -> str:
    switch = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
    if name in tree.values:
        return f"{switch} -x -a {_fish(' '.join(tree.values[name]))}"
    if name in FILES:
        return f"{switch} -r -F"
    if name in tree.live_options:
        return f"{switch} -x -a '(__assay_live)'"
    return f"{switch} -r" if name in tree.with_value else switch


def powershell(tree: Tree) -> str:
    """A native argument completer."""
    options = "".join(f"        {_ps(p.path)} = {_ps_list(p.options)}\n" for p in tree.places)
    words = "".join(f"        {_ps(p.path)} = {_ps_list([*p.subcommands, *p.values])}\n" for p in tree.places)
    values = "".join(f"        {_ps(name)} = {_ps_list(words)}\n" for name, words in tree.values.items())
    return f"""# PowerShell completion for assay; made by: assay completion powershell
Register-ArgumentCompleter -Native -CommandName assay -ScriptBlock {{
    param($wordToComplete, $commandAst, $cursorPosition)
    $options = @{{
{options}    }}
    $words = @{{
{words}    }}
    $values = @{{
{values}    }}
    $withValue = {_ps_list(tree.with_value)}
    $liveOptions = {_ps_list(tree.live_options)}
    $livePlaces = {_ps_list(tree.live_places)}
    $program = $commandAst.CommandElements[0].Value
    $quote = [char]39
    $before = @()
    $at = 'assay'
    $previous = ''
    $skip = $false
    foreach ($element in ($commandAst.CommandElements | Select-Object -Skip 1)) {{
        if ($element.Extent.EndOffset -ge $cursorPosition) {{ break }}
        $word = $element.Extent.Text
        $plain = $element -is [System.Management.Automation.Language.StringConstantExpressionAst]
        $before += if ($plain) {{ $element.Value }} else {{ $word }}
        if ($skip) {{
            $skip = $false
        }} elseif ($withValue -ccontains $word) {{
            $skip = $true
        }} elseif ($options.ContainsKey("$at $word")) {{
            $at = "$at $word"
        }}
        $previous = $word
    }}
    if ($values.ContainsKey($previous)) {{
        $candidates = $values[$previous]
    }} elseif ($skip -and -not ($liveOptions -ccontains $previous)) {{
        $candidates = @()
    }} elseif (-not $skip -and $wordToComplete.StartsWith('-')) {{
        $candidates = $options[$at]
    }} elseif ($skip -or ($livePlaces -ccontains $at)) {{
        $candidates = @(& $program __complete -- @before $wordToComplete 2>$null)
    }} else {{
        $candidates = $words[$at]
    }}
    $candidates | Where-Object {{ $_.StartsWith($wordToComplete) }} | ForEach-Object {{
        $quoted = "$quote" + $_.Replace("$quote", "$quote$quote") + $quote
        $text = if ($_ -cmatch '[^\\w./:@+=-]') {{ $quoted }} else {{ $_ }}
        [System.Management.Automation.CompletionResult]::new($text, $_, 'ParameterValue', $_)
    }}
}}
"""


def elvish(tree: Tree) -> str:
    """An argument completer; Elvish filters the candidates itself."""
    options = "".join(f"        &{_ps(p.path)}={_elvish_list(p.options)}\n" for p in tree.places)
    words = "".join(f"        &{_ps(p.path)}={_elvish_list([*p.subcommands, *p.values])}\n" for p in tree.places)
    values = "".join(f"        &{_ps(name)}={_elvish_list(words)}\n" for name, words in tree.values.items())
    with_value, live_options, live_places = (
        " ".join(f"&{_ps(name)}=$true" for name in names)
        for names in (tree.with_value, tree.live_options, tree.live_places)
    )
    return f"""# Elvish completion for assay; made by: assay completion elvish
use str
set edit:completion:arg-completer[assay] = {{|@words|
    var options = [
{options}    ]
    var subcommands = [
{words}    ]
    var values = [
{values}    ]
    var with-value = [{with_value}]
    var live-options = [{live_options}]
    var live-places = [{live_places}]
    var at = assay
    var previous = ''
    var skip = $false
    for word $words[1..-1] {{
        if $skip {{
            set skip = $false
        }} elif (has-key $with-value $word) {{
            set skip = $true
        }} elif (has-key $options $at' '$word) {{
            set at = $at' '$word
        }}
        set previous = $word
    }}
    if (has-key $values $previous) {{
        all $values[$previous]
    }} elif (and $skip (not (has-key $live-options $previous))) {{
        nop
    }} elif (and (not $skip) (str:has-prefix $words[-1] '-')) {{
        all $options[$at]
    }} elif (or $skip (has-key $live-places $at)) {{
        try {{
            (external $words[0]) __complete -- (all $words[1..]) 2>/dev/null | from-lines
        }} catch e {{
            nop
        }}
    }} else {{
        all $subcommands[$at]
    }}
}}
"""


def _paths(tree: Tree) -> list[str]:
    """Every command but the first, ``assay`` itself."""
    return [place.path for place in tree.places[1:]]


def _sh(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _ps(text: str) -> str:
    """A quoted string of PowerShell and of Elvish, which double the quote."""
    return "'" + text.replace("'", "''") + "'"


def _ps_list(words: Iterable[str]) -> str:
    return "@(" + ", ".join(map(_ps, words)) + ")"


def _elvish_list(words: Iterable[str]) -> str:
    return "[" + " ".join(map(_ps, words)) + "]"
