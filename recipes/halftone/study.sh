#!/bin/sh
# EfficientNet-Lite0 learns what a halftone and back leaves, and is attacked. An hour of one core.
#
#   APERCU_DATA=… recipes/halftone/study.sh
#
# APERCU_DATA holds `data/`. All goes to runs/halftone; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
data=${APERCU_DATA:?is the folder that holds data}/data
bin=${APERCU_BIN:-.venv/bin/python -m apercu}
out=runs/halftone

[ -f $out/lite0/card.json ] ||
    $bin stress train --classifier ready:efficientnet_lite0 --images "$data/imagenet-train" \
        --config recipes/halftone/inverse.yaml --out $out/lite0 --resume
$bin stress --classifier $out/lite0/card.json --images "$data/imagenet-val" --out $out/naive \
    --filters none,inverse_halftone --knowledge naive --attacks pgd --epsilons 4/255 --limit 250
$bin stress --classifier $out/lite0/card.json --images "$data/imagenet-val" --out $out/adaptive \
    --filters inverse_halftone --knowledge adaptive --attacks pgd --epsilons 4/255 --limit 32
