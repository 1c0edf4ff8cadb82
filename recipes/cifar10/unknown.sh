#!/bin/sh
# Unknown classes after the protocol of UQGAN (Oberdiek et al. 2022): a small network of the classes 0 to 4 of CIFAR-10
# should recognise images of the classes 5 to 9, and of other kinds. Half an hour on one core.
#
#   APERCU_DATA=… recipes/cifar10/unknown.sh
#
# APERCU_DATA holds `data/`. All goes to runs/cifar10-unknown; what is there is kept. Each method is fitted in a call of
# its own; the last call makes the table of all.
set -eu
cd "$(dirname "$0")/../.."
data=${APERCU_DATA:-../shared}/data
bin=.venv/bin
out=${OUT:-runs/cifar10-unknown}

$bin/python recipes/cifar10/split_classes.py "$data/cifar10" "$out/images"
[ -f "$out/network/card.json" ] ||
    $bin/apercu stress train --classifier recipes/cifar10/unknown.json --config recipes/cifar10/unknown.yaml --resume \
        --images "$out/images/train" --out "$out/network"

measure() { # methods
    $bin/apercu stress unknown --classifier "$out/network/card.json" --images "$out/images/known" \
        --fit "$out/images/train" --unknown "$out/images/unknown" --unknown "$out/images/noise" \
        --unknown "$data/star-galaxy/test" --unknown "$data/cxr-kermany/test" --methods "$1" --out "$out/table"
}
fast=max_softmax,entropy,energy,mahalanobis,mahalanobis:components=low,openmax,monte_carlo_dropout:passes=20
slow="deep_ensemble:members=3,steps=700
conditional_generator:steps=500,code_steps=500
boundary_samples:steps=300
on_manifold:steps=400,code_steps=500
discriminative_reconstruction:steps=500
one_class:steps=600
stain_noise:steps=600"
for method in $fast $slow; do
    measure "$method"
done
measure "$fast,$(echo "$slow" | tr '\n' ',' | sed 's/,$//')"
$bin/python recipes/cifar10/unknown_table.py "$out/table/results.json"
