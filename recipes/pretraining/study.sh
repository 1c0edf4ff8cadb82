#!/bin/sh
# Pretraining on galaxies and chest films, then few labels. About an hour on two cores.
#
#   APERCU_DATA=… recipes/pretraining/study.sh [galaxies films]
#
# APERCU_DATA holds `models/` and `data/`. All goes to runs/; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
. recipes/studies.sh
studies="galaxies films"
check_studies "$studies" "$@"
shared=${APERCU_DATA:-../shared}
bin=.venv/bin
imagenet=$shared/models/mobilenetv2_100.json

pretrain() { # run pretext images steps batch [options]
    run=$1 pretext=$2 images=$3 steps=${STEPS:-$4} batch=$5
    shift 5
    [ -f "$run/$pretext/card.json" ] && return
    $bin/apercu pretrain "$pretext" --images "$shared/data/$images" --backbone timm/resnet10t \
        --out "$run/$pretext" --steps "$steps" --batch "$batch" --resume "$@"
}

evaluate() { # out images fractions [options]
    out=$1 images=$2 fractions=$3
    shift 3
    $bin/apercu evaluate-features --images "$shared/data/$images/train" \
        --test "$shared/data/$images/test" --fractions "$fractions" --draws 3 --out "$out" "$@"
}

for study in ${*:-$studies}; do
    case $study in
    galaxies) # brightness is measured in the images themselves
        pretrain runs/galaxies magnitudes star-galaxy/train 800 32
        evaluate runs/galaxies/features star-galaxy 0.01,0.05,0.1,0.25,0.5,1 --anew \
            --network brightness=runs/galaxies/magnitudes/card.json --heads linear,dense,nearest
        evaluate runs/galaxies/imagenet star-galaxy 0.01,0.05,0.1,0.25,0.5,1 \
            --network imagenet="$imagenet" --heads linear,dense,nearest
        evaluate runs/galaxies/trained star-galaxy 0.01,0.05,0.1,0.25,0.5,1 --anew \
            --network brightness=runs/galaxies/magnitudes/card.json \
            --heads fine_tuning:steps=120,batch=16,turned=true
        ;;
    films)
        for pretext in transformation adios; do
            pretrain runs/films $pretext cxr-kermany/train 500 32 --channels 1 --size 64 \
                --config recipes/pretraining/$pretext.yaml
        done
        evaluate runs/films/features cxr-kermany 0.01,0.05,0.1,0.25,0.5,1 --anew \
            --network transformation=runs/films/transformation/card.json \
            --network adios=runs/films/adios/card.json --heads linear,dense,nearest
        evaluate runs/films/imagenet cxr-kermany 0.01,0.05,0.1,0.25,0.5,1 \
            --network imagenet="$imagenet" --heads linear,dense,nearest
        evaluate runs/films/trained cxr-kermany 0.01,0.05,0.1,0.25,0.5,1 --anew \
            --network transformation=runs/films/transformation/card.json \
            --heads fine_tuning:steps=120,batch=16
        ;;
    esac
done
