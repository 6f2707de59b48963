#!/bin/bash
#
# format.sh - bring the C files into PostgreSQL's style: clang-format with
# .clang-format, then align.pl.
#
#	scripts/format.sh [FILE]...          rewrites them (default: all)
#	scripts/format.sh --check [FILE]...  shows what it would change
#
# Lines that are longer than LINE_LENGTH columns are named, but breaking them is
# left to their author; a line with a string may be longer, so that messages can
# be searched for.  The status of --check is non-zero if there is anything to do.

set -euo pipefail

LINE_LENGTH=100

fail()
{
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# format FILE: print it formatted.
format()
{
	clang-format --style=file --assume-filename="$1" <"$1" | perl scripts/align.pl
}

# long_lines FILE: name them, and fail if there are any.
long_lines()
{
	expand --tabs=4 "$1" | awk -v file="$1" -v limit="$LINE_LENGTH" '
		length > limit && !/"/ { print file ":" NR ": " length " columns"; found = 1 }
		END { exit found }'
}

check=0
case ${1:-} in
	--check)
		check=1
		shift
		;;
	-h | --help)
		sed -n '3,12s/^# \{0,1\}//p' "$0"
		exit 0
		;;
	-*) fail "unknown option $1 (see --help)" ;;
esac
command -v clang-format >/dev/null || fail "clang-format is missing (as root: apt-get install clang-format)"

files=()
for file in "$@"; do
	files+=("$(realpath "$file")")
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "${#files[@]}" -eq 0 ]; then
	mapfile -t files < <(find . -name .git -prune -o -name '*.[ch]' -printf '%P\n' | sort)
fi

formatted=$(mktemp)
trap 'rm -f "$formatted"' EXIT
status=0
for file in "${files[@]}"; do
	format "$file" >"$formatted"
	if ! cmp --silent "$file" "$formatted"; then
		if [ "$check" -eq 1 ]; then
			diff --unified=1 --label "$file" --label "$file, formatted" "$file" "$formatted" || status=1
		else
			# into the same file: owner and mode stay
			cat "$formatted" >"$file"
			printf 'formatted %s\n' "$file"
		fi
	fi
	long_lines "$formatted" | sed "s|^$formatted|$file|" || status=1
done
if [ "$check" -eq 1 ]; then
	exit "$status"
fi
