#!/bin/sh
# A vision transformer explained, where the evidence is known: train it on planted images, train a mask for it,
# compare. About forty minutes of one core.
#
#   recipes/vit/study.sh
#
# All goes to runs/vit; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
bin=.venv/bin
out=runs/vit
card=$out/planted/card.json
methods="attention_rollout,attention_relevance,grad_cam,gradient,input_x_gradient,smooth_grad:samples=20"
metrics="saliency_metric,localisation_error,pointing_game,energy,ncc,dauc,iauc"
test="split=test"

[ -f $card ] || $bin/python recipes/vit/planted.py $out/planted
[ -f $out/planted-mask/weights.safetensors ] ||
    $bin/apercu train mask --classifier $card --images planted:images=2000 --steps 300 \
        --out $out/planted-mask --resume
$bin/apercu compare --classifier $card --images planted:images=100,$test --explainer $out/planted-mask \
    --methods "$methods,rise:masks=400,centre_box,true_box,random" --metrics $metrics --steps 16 \
    --out $out/planted-compare
$bin/python recipes/vit/pictures.py $card $out/planted-mask planted:images=12,$test \
    docs/pictures/transformers.png
cat $out/planted-compare/table.md
