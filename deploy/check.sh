#!/usr/bin/env bash
# Lints and renders everything under deploy/ with real tools; `make deploy-check` runs it.
# usage: deploy/check.sh FOLDER-OF-LINTERS PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$1 python=$2
kubernetes_version=1.33
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() { printf '%-22s %s\n' "$1" "$2"; }

"$tools/yamllint" --strict -c deploy/yamllint.yaml deploy
say yamllint "deploy/"
"$tools/hadolint" deploy/containers/*.Containerfile
say hadolint "2 container files"
"$tools/check-jsonschema" --builtin-schema vendor.compose-spec deploy/compose/rehearsal.yaml
if command -v docker-compose > /dev/null; then
    MEDUNLEARN_PASSPHRASE=x docker-compose -f deploy/compose/rehearsal.yaml config > /dev/null
    say docker-compose "rehearsal.yaml rendered"
else
    say docker-compose "NOT RUN: not installed"
fi
if command -v kubectl > /dev/null; then
    for name in coordinator hospital hospital-gpu; do
        kubectl kustomize "deploy/kubernetes/$name" > "$scratch/$name.yaml"
        "$tools/kubernetes-validate" --strict -k "$kubernetes_version" "$scratch/$name.yaml" \
            > "$scratch/said" || { cat "$scratch/said"; exit 1; }
        say kustomize "$name: $(grep -c passed "$scratch/said") objects, Kubernetes $kubernetes_version"
    done
else
    say kustomize "NOT RUN: no kubectl"
fi
if command -v systemd-analyze > /dev/null; then
    for role in coordinator hospital; do
        "$python" - "$role" > "$scratch/medunlearn-$role.service" << 'END'
import sys
from pathlib import Path
from medunlearn_common.deployment import UnitSettings, service_unit
print(service_unit(sys.argv[1], UnitSettings(
    folder=Path("/srv/medunlearn"), user="daemon", command=Path("/bin/true"))))
END
        systemd-analyze verify "$scratch/medunlearn-$role.service"
        say systemd-analyze "$(systemd-analyze security --offline=yes \
            "$scratch/medunlearn-$role.service" | tail -1 | sed 's/^[^A-Za-z]*//')"
    done
else
    say systemd-analyze "NOT RUN: not installed"
fi
if command -v shellcheck > /dev/null; then
    shellcheck deploy/check.sh
    say shellcheck "deploy/check.sh"
fi
