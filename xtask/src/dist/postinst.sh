#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # Only after an upgrade, and only if it runs. The data plane keeps working meanwhile.
    if [ -n "$2" ]; then
        systemctl try-restart svcproxy.service
    fi
fi
