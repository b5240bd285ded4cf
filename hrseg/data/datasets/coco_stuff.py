"""COCO-Stuff: the label table, for pretrained weights; 171 classes."""

from __future__ import annotations

from hrseg.data.classes import default_colors
from hrseg.data.labels import LabelTable

# labels.txt of COCO-Stuff: 80 things, then 91 stuff classes in alphabetical order
_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage,
cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff,
dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other,
fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss,
mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing,
railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs,
stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete,
wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""
# ids of things that occur in no image
_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)

# ids as in HRNet-Semantic-Segmentation, lib/datasets/cocostuff.py
COCO_STUFF = LabelTable(
    "COCO-Stuff",
    tuple(" ".join(_NAMES.split()).split(", ")),
    default_colors(171),
    label_ids=tuple(label_id for label_id in range(1, 183) if label_id not in _UNUSED),
    void_ids=(0,),
)
