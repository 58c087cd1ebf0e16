# Sourced, in the root of the checkout, by .ci/run and ci/package, which therefore compile nothing twice: what makes a build the
# same bytes in every directory. Needs $target, the folder of built files.

# The time of the last commit is the time of everything that is packed. Nothing is compiled with it: C code would be compiled anew
# for every commit.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}
unset SOURCE_DATE_EPOCH

# Panics name source files: without the folders that the checkout and cargo's sources happen to be in. Of several prefixes the
# last counts, and cargo's home may be in $target.
# In the system's own writing, of a folder that exists: a shell on Windows has another.
native() { (cd "$1" 2>/dev/null && { pwd -W 2>/dev/null || pwd; }) || printf '%s\n' "$1"; }
if [[ -z ${CARGO_ENCODED_RUSTFLAGS:-} ]]; then
    flags=()
    read -r -a flags <<<"${RUSTFLAGS:-}" || true
    flags+=("--remap-path-prefix=$(native .)=/onnx-prune" "--remap-path-prefix=$(native "$target")=/onnx-prune/target"
        "--remap-path-prefix=$(native "${CARGO_HOME:-$HOME/.cargo}")=/cargo")
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf '%s' "${flags[*]}")
    export CARGO_ENCODED_RUSTFLAGS
fi
# Units of code depend on what was compiled before.
export CARGO_INCREMENTAL=0
