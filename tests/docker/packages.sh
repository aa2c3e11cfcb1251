# shellcheck shell=bash
# Sourced by those that make an image out of this machine's own packages.

# The packages named, and all that they need, as they are installed here.
closure() {
    # shellcheck disable=SC2016 # dpkg-query's own
    apt-cache depends --recurse --installed --important "$@" |
        grep '^[a-z]' | sort -u |
        xargs dpkg-query -Wf '${db:Status-Status} ${binary:Package}\n' 2>/dev/null |
        sed -n 's/^installed //p'
}

# What the packages consist of, without documentation and the like.
files_of() {
    dpkg-query -L "$@" | sed -E 's,^/(bin|sbin|lib|lib64)/,/usr&,' | grep -Ev '^/\.$|^/usr/share/'
}

# Of the paths on stdin those that are there, relative to /, each once.
present() {
    sort -u | while read -r file; do
        if [ -e "$file" ]; then echo "${file#/}"; fi
    done
}

# Ends the script if image $1 was made out of the same things, as the key $2 says.
unless_up_to_date() {
    if [ "$(docker image inspect -f '{{.Config.Labels.key}}' "$1" 2>&1)" = "$2" ]; then
        echo "$1 is up to date"
        exit
    fi
}

# An archive of the files named on stdin, owned by root; further arguments are tar's.
archive() {
    tar -c -C / --no-recursion -T - --mtime=@0 --owner=0 --group=0 --numeric-owner "$@"
}
