#!/bin/sh
# Vision transformers explained: train one on planted images, whose evidence is known, and one on CIFAR-10; train masks
# for both; compare. About two hours of one core; without APERCU_DATA, planted images only.
#
#   APERCU_DATA=… recipes/vit/study.sh
#
# All goes to runs/vit; what is there is kept, and what was interrupted goes on.
set -eu
cd "$(dirname "$0")/../.."
bin=.venv/bin
out=runs/vit
methods="attention_rollout,attention_relevance,grad_cam,gradient,input_x_gradient,smooth_grad:samples=20"
methods="$methods,rise:masks=400,centre_box,random"

# explain NAME CONFIG TRAINING-IMAGES TEST-IMAGES MORE-METHODS METRICS PICTURE: masks, a comparison, a picture.
explain() {
    card=$out/$1/card.json
    [ -f "$out/$1-mask/weights.safetensors" ] ||
        $bin/apercu train mask --classifier "$card" --images "$3" --config "$2" --steps 600 \
            --out "$out/$1-mask" --resume
    $bin/apercu compare --classifier "$card" --images "$4" --limit 200 --explainer "$out/$1-mask" \
        --methods "$methods$5" --metrics "$6" --steps 16 --out "$out/$1-compare"
    $bin/python recipes/vit/pictures.py "$card" "$out/$1-mask" "$4" "$7"
}

[ -f $out/planted/card.json ] || $bin/python recipes/vit/planted.py $out/planted
explain planted light planted:images=4000 planted:images=200,split=test ,true_box \
    saliency_metric,localisation_error,pointing_game,energy,ncc,dauc,iauc docs/pictures/transformers.png

data=${APERCU_DATA:-}
[ -n "$data" ] || exit 0
[ -f $out/cifar10/card.json ] || $bin/python recipes/vit/cifar10.py "$data/models/resnet20_cifar10.onnx.json" \
    "$data/data/cifar10/train.parquet" "$data/data/cifar10/test.parquet" $out/cifar10
explain cifar10 recipes/vit/cifar10.yaml "$data/data/cifar10/train.parquet" "$data/data/cifar10/test.parquet" "" \
    saliency_metric,dauc,iauc $out/cifar10.png
