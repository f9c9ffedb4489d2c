# Sourced by the scripts that need Debian packages: install_missing PATH:PACKAGE...
# Installs the packages of those paths that are not there. A path, not dpkg, is asked: that is faster, and notices a broken
# installation.
install_missing() {
    local need path log missing=()
    for need in "$@"; do
        path=${need%%:*}
        # Debian merged /usr, but not everywhere and not for every package.
        [ -e "$path" ] || [ -e "${path#/usr}" ] || missing+=("${need##*:}")
    done
    if [ ${#missing[@]} = 0 ]; then
        echo "fleet: all packages are here"
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        echo "error: ${missing[*]} missing, and only root can install packages" >&2
        echo "  help: run this as root, or: apt-get install ${missing[*]}" >&2
        return 1
    fi
    echo "fleet: installing Debian packages: ${missing[*]}"
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        echo "error: apt-get could not install them" >&2
        return 1
    fi
    rm -f "$log"
}
