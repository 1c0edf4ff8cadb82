#!/bin/sh
# Backdoors: a small network on CIFAR-10, clean and poisoned in three ways; what finds the backdoor,
# corrects its inputs and removes it. Two hours of one core.
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

scan() { # name, methods, then options
    name=$1 methods=$2
    shift 2
    [ -f "$runs/scan-$name/backdoors.json" ] ||
        $bin/apercu stress backdoor --classifier "$runs/$name/card.json" --limit 1000 \
            --images "$data/test.parquet" --out "$runs/scan-$name" --methods "$methods" "$@"
}

train clean
train badnets --poison badnets:targets=0 --poison-share 0.05
train dct_n_to_n --poison dct:targets=0/3/7 --poison-share 0.1
train dct_n_to_one --poison dct:targets=2/2/2 --poison-share 0.1

scan clean neural_cleanse
for name in badnets dct_n_to_n dct_n_to_one; do
    [ -f "$runs/mask-$name/weights.safetensors" ] ||
        $bin/apercu train mask --classifier "$runs/$name/card.json" --steps 600 --resume \
            --images "$data/train.parquet" --out "$runs/mask-$name"
    scan $name neural_cleanse,strip,evidence,antidote,fine_pruning,unlearning \
        --poison "$runs/$name" --explainer "$runs/mask-$name"
done
$bin/python recipes/cifar10/backdoors.py "$runs" "$data/test.parquet"
