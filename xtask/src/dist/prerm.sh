#!/bin/sh
set -e
# What svcproxy put into the kernel stays: `svcproxy cleanup` before the removal takes it away.
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now svcproxy.service
fi
