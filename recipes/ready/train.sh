#!/bin/sh
# Trains, measures and packs the ready-made explainer. About an hour and a half of two cores.
#
#   APERCU_DATA=… recipes/ready/train.sh [NAME]
#
# All goes to runs/ready; what is there is kept, and what was interrupted goes on.
set -eu
cd "$(dirname "$0")/../.."
bin=.venv/bin
name=${1:-efficientnet_lite0}
out=runs/ready/$name
data=${APERCU_DATA:?is the folder that holds data/imagenet-train and data/imagenet-val}/data

[ -f "$out/run/weights.safetensors" ] ||
    $bin/apercu train mask --classifier "ready:$name" --images "$data/imagenet-train" \
        --config recipes/ready/mask.yaml --out "$out/run" --resume
$bin/apercu compare --classifier "ready:$name" --images "$data/imagenet-val" --explainer "$out/run" \
    --methods cam,grad_cam --metrics saliency_metric,localisation_error,pointing_game --out "$out/compare"
$bin/python recipes/ready/pack.py "$out/run" "$out/compare" "$name" \
    --images "3,000 photographs of ImageNet's training set and of Imagenette: one of each class, 200 more of ten classes." \
    --terms "ImageNet's photographs are for research that is not commercial; none of them lies here." \
    --test "250 of 500 photographs of ImageNet's validation set, all with boxes; the highest point on all 500." \
    --command "APERCU_DATA=… recipes/ready/train.sh"
