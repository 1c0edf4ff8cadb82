#!/bin/sh
# Chest films: a pneumonia classifier, three explainers for it, and where they point. About three hours
# on two cores.
#
#   APERCU_DATA=… recipes/chest/study.sh
#
# APERCU_DATA holds `models/` and `data/`. All of it goes to runs/chest; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
data=${APERCU_DATA:-../shared}
bin=.venv/bin
out=runs/chest
card=$out/classifier/card.json

[ -d $out/films ] || $bin/python recipes/chest/prepare.py "$data/data" $out/films
[ -f $card ] || $bin/python recipes/chest/classifier.py $out/films "$data/models" $out/classifier
[ -f $out/plain/card.json ] ||
    $bin/python recipes/chest/classifier.py $out/films "$data/models" $out/plain --plain
[ -f $out/coloured/card.json ] ||
    $bin/python recipes/chest/classifier.py $out/films "$data/models" $out/coloured --colour

for truth in boxes opacities; do
    [ -f $out/exchange-$truth/facts.json ] ||
        $bin/python recipes/chest/exchange.py $out/films $card $out/exchange-$truth --truth $truth
done

train() { # explainer, then options
    [ -f "$out/$1/weights.safetensors" ] ||
        $bin/apercu train "$@" --classifier $card --images $out/films/train --out "$out/$1" --resume
}
train counterpart --config recipes/chest/counterpart.yaml
train mask --config recipes/chest/mask.yaml --steps 300
train latent
for run in counterpart latent; do
    [ -f $out/measured-$run/facts.json ] ||
        $bin/python recipes/chest/measure.py $out/films $card $out/$run $out/measured-$run
done

quick="gradient,integrated_gradients:steps=20,cam,grad_cam,occlusion"
turned="counterpart:augmented=8,mask:augmented=8,gradient:augmented=8"
turned="$turned,integrated_gradients:steps=20,augmented=8,cam:augmented=8,grad_cam:augmented=8"
turned="$turned,occlusion:augmented=8"
slow="rise:masks=300,meaningful_perturbation:steps=100"
slow="$slow,rise:masks=300,augmented=4,meaningful_perturbation:steps=100,augmented=4"
for truth in boxes opacities; do
    $bin/apercu compare --classifier $card --images $out/films/$truth \
        --explainer $out/counterpart --explainer $out/mask --explainer $out/latent \
        --methods "$quick,centre_blob,centre_box,random,$turned,$slow" \
        --metrics ncc,iou_over_percentiles,iou_at_area,pointing_game --out $out/compare-$truth
done
$bin/python recipes/averaged.py $out/compare-boxes $out/compare-opacities
$bin/apercu compare --classifier $out/plain/card.json --images $out/films/boxes \
    --methods "$quick,centre_blob,gradient:augmented=8,cam:augmented=8,grad_cam:augmented=8" \
    --metrics ncc,iou_over_percentiles,iou_at_area,pointing_game --out $out/compare-plain
$bin/apercu stress detect --classifier $card --images $out/films/test --explainer $out/mask \
    --looks map,stability,stability:median,cam,deep --attacks fgsm,pgd --limit 300 --out $out/detect
$bin/apercu stress detect --classifier $card --images $out/films/test --explainer $out/mask \
    --looks stability,stability:median --attacks pgd --out $out/detect-all
