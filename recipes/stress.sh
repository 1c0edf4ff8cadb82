#!/bin/sh
# MobileNetV2 under attack: first by someone who does not know of filters, then by someone who does.
# About five hours of one core.
#
#   APERCU_DATA=… recipes/stress.sh
#
# APERCU_DATA holds `models/` and `data/`; recipes/photographs.sh has trained the explainer. All goes to
# runs/stress-*; what is there is kept.
set -eu
cd "$(dirname "$0")/.."
data=${APERCU_DATA:-../shared}

stress() { # name, then options
    name=$1
    shift
    .venv/bin/apercu stress --classifier "$data/models/mobilenetv2_100.json" \
        --images "$data/data/imagenet-val" --out "runs/stress-$name" "$@"
}
stress naive --filters none,floyd_steinberg,bayer,jpeg,bit_depth,median,gaussian \
    --knowledge naive --limit 500 --explainer runs/mobilenetv2
stress adaptive --filters none,floyd_steinberg,bayer,jpeg,bit_depth,median,gaussian \
    --limit 500
