#!/bin/sh
# Alerts of a sky survey: two pretexts without labels, then three questions with few. Hours on two cores.
#
#   APERCU_DATA=… recipes/ztf/study.sh [prepare pretexts features trained explain]
#
# APERCU_DATA holds `models/` and `data/`. All goes to runs/ztf; what is there is kept. On a GPU say
# BACKBONE=timm/resnet18 STEPS=20000, for the larger setting.
set -eu
cd "$(dirname "$0")/../.."
. recipes/studies.sh
studies="prepare pretexts features trained explain"
check_studies "$studies" "$@"
shared=${APERCU_DATA:-../shared}
bin=.venv/bin
run=runs/ztf
backbone=${BACKBONE:-timm/resnet10t}

pretrain() { # pretext steps batch [options]
    pretext=$1 steps=${STEPS:-$2} batch=$3
    shift 3
    [ -f "$run/$pretext/card.json" ] && return
    $bin/apercu pretrain "$pretext" --images $run/data/learn.npz --test $run/data/test.npz \
        --backbone "$backbone" --out "$run/$pretext" --steps "$steps" --batch "$batch" --resume "$@"
}

evaluate() { # name label options
    name=$1 label=$2
    shift 2
    $bin/apercu evaluate-features --images $run/data/learn.npz --test $run/data/test.npz \
        --catalogue $run/data/labels.csv --id candid --label "$label" --draws 3 \
        --fractions 0.05,0.1,0.25,0.5,1 --out "$run/$name-$label" "$@"
}

for study in ${*:-$studies}; do
    case $study in
    prepare)
        [ -f $run/data/labels.csv ] || $bin/python recipes/ztf/prepare.py "$shared/data/ztf" $run/data
        ;;
    pretexts)
        pretrain magnitudes 1500 32 --catalogue "$shared/data/ztf/alerts.parquet" --id candid \
            --target magnr,magpsf
        pretrain contrastive 500 48
        $bin/python recipes/ztf/imagenet.py "$shared/models/mobilenetv2_100.json" \
            $run/magnitudes/card.json $run/imagenet.json
        ;;
    features) # heads on features that stand still
        for label in real star asteroid; do
            evaluate features $label --heads linear,dense,nearest --anew \
                --network magnitudes=$run/magnitudes/card.json
            evaluate others $label --heads linear,dense,nearest \
                --network contrastive=$run/contrastive/card.json \
                --network imagenet=$run/imagenet.json
        done
        ;;
    trained) # all layers: pretrained against from scratch
        for label in real star asteroid; do
            evaluate trained $label --heads fine_tuning:steps=120,batch=16,turned=true --anew \
                --network magnitudes=$run/magnitudes/card.json
        done
        ;;
    explain) # a classifier that the survey uses, explained by a network of its own
        [ -f $run/braai.json ] || $bin/python recipes/ztf/braai.py \
            "$shared/models/braai_ztf.pt2.json" $run/data/learn.npz $run/braai.json
        [ -f $run/mask/weights.safetensors ] ||
            $bin/apercu train mask --classifier $run/braai.json \
                --images $run/data/learn.npz --config recipes/ztf/mask.yaml --out $run/mask --resume
        [ -f $run/counterpart/weights.safetensors ] ||
            $bin/apercu train counterpart --classifier $run/braai.json \
                --images $run/data/learn.npz --config recipes/ztf/counterpart.yaml \
                --out $run/counterpart --resume
        $bin/python recipes/ztf/measure.py $run
        $bin/python recipes/ztf/pictures.py $run
        ;;
    esac
done
