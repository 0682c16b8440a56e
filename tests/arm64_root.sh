#!/bin/sh -e
# Makes the root of an arm64 system from Debian's packages, without running any of them: arm64_root.sh FOLDER
# It takes debootstrap; nothing is installed on this machine. tests/test_other_processors.py runs programs
# in it by an emulator, with a folder of its own at /mnt.
test $# = 1 || { echo "usage: $0 FOLDER" >&2; exit 2; }
debootstrap --arch=arm64 --foreign --variant=minbase --include=python3,python3-venv,libstdc++6 bookworm "$1"
for package in "$1"/var/cache/apt/archives/*.deb; do
    dpkg --extract "$package" "$1"
done
rm -rf "$1"/var/cache/apt/archives
mkdir -p "$1/mnt"
