#!/bin/sh
# A classifier that shows no layers, explained through the features of the ready-made one. About
# forty minutes of two cores.
#
#   APERCU_DATA=… recipes/ready/black_box.sh [CARD]
#
# CARD is any card or ONNX file; by default SqueezeNet of torchvision. All goes to runs/ready.
set -eu
cd "$(dirname "$0")/../.."
bin=.venv/bin
data=${APERCU_DATA:?is the folder that holds data/imagenet-train, data/imagenet-val and models}
card=${1:-$data/models/squeezenet1_1.json}
out=runs/ready/$(basename "${card%.*}")

[ -f "$out/run/weights.safetensors" ] ||
    $bin/apercu train mask --classifier "$card" --encoder ready:efficientnet_lite0 \
        --images "$data/data/imagenet-train" --config light --out "$out/run" --resume
$bin/apercu compare --classifier "$card" --images "$data/data/imagenet-val" --explainer "$out/run" \
    --methods cam,grad_cam,centre_box --metrics saliency_metric,localisation_error,pointing_game \
    --no-cost --out "$out/compare"
