#!/bin/sh
# What a guard recognises on chest films, and how far its confidence can be believed at two hospitals.
# About twenty minutes of one core, after recipes/chest/study.sh has made runs/chest/classifier.
#
#   APERCU_DATA=… recipes/guard/films.sh
#
# APERCU_DATA holds `data/`. All goes to runs/guard; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
data=${APERCU_DATA:?is the folder that holds data}/data
bin=${APERCU_BIN:-.venv/bin/python -m apercu}
films=runs/chest/films
card=runs/chest/classifier/card.json
out=runs/guard

[ -f $out/films/guard.json ] || $bin guard fit $card --images $films/validate --out $out/films
$bin guard measure $card --guard $out/films --images $films/test --limit 300 --attacks fgsm,pgd \
    --unknown "$data/imagenet-val" --unknown "$data/star-galaxy/test" --unknown noise \
    --unknown "$data/cxr-covid-seg/images" --out $out/films-kinds
$bin guard measure $card --guard $out/films --images $films/test --limit 32 \
    --attacks aware_pgd:steps=20,smooth_pgd,aware_smooth_pgd --out $out/films-aware
for hospital in kermany nih; do # the beginning of a film's name
    for class in normal pneumonia; do
        mkdir -p $out/films-$hospital-images/$class
        ln -f $films/test/$class/$hospital-* $out/films-$hospital-images/$class
    done
    $bin guard measure $card --guard $out/films --images $out/films-$hospital-images \
        --attacks none --out $out/films-$hospital
done
