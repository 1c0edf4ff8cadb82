#!/bin/sh
# Backdoors: a small network on CIFAR-10, clean and poisoned in two ways; what finds the backdoor,
# corrects its inputs and removes it. Three and a half hours of one core, of which the mask explainers take two.
# They are trained on clean images, and on those of the training with their triggers.
#
#   APERCU_DATA=… recipes/cifar10/backdoors.sh
#
# APERCU_DATA holds `data/`. All goes to runs/backdoors; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
data=${APERCU_DATA:-../shared}/data/cifar10
bin=.venv/bin
runs=runs/backdoors

train() { # name, then options
    name=$1
    shift
    [ -f "$runs/$name/card.json" ] ||
        $bin/apercu stress train --classifier recipes/cifar10/backdoors.json --resume \
            --images "$data/train.parquet" --config recipes/cifar10/backdoors.yaml \
            --out "$runs/$name" "$@"
}

scan() { # name of the training, name of the results, methods, then options
    name=$1 results=$2 methods=$3
    shift 3
    [ -f "$runs/scan-$results/backdoors.json" ] ||
        $bin/apercu stress backdoor --classifier "$runs/$name/card.json" --limit 400 \
            --images "$data/test.parquet" --out "$runs/scan-$results" --methods "$methods" "$@"
}

explain() { # name of the training, name of the explainer, images: a mask explainer of this network
    [ -f "$runs/masks-$2/weights.safetensors" ] ||
        $bin/apercu train mask --classifier "$runs/$1/card.json" --images "$3" \
            --config recipes/cifar10/backdoor_masks.yaml --resume --out "$runs/masks-$2"
    scan "$1" "$2-masks" evidence --poison "$runs/$1" --explainer "$runs/masks-$2"
}

train clean
train badnets --poison badnets:targets=0 --poison-fraction 0.05
train dct_n_to_n --poison dct:targets=0/3/7 --poison-fraction 0.1

scan clean clean neural_cleanse
for name in badnets dct_n_to_n; do
    scan "$name" "$name-images" \
        strip,strip:weight=0.5,antidote,fine_pruning,evidence:method=gradient --poison "$runs/$name"
    scan "$name" "$name-classes" neural_cleanse,unlearning --poison "$runs/$name"
    explain "$name" "$name" "$data/train.parquet"
    $bin/python recipes/cifar10/poisoned_images.py "$runs/$name" "$data/train.parquet" "$runs/images-$name"
    explain "$name" "$name-poisoned" "$runs/images-$name"
done
$bin/python recipes/cifar10/backdoors.py "$runs" "$data/test.parquet"
