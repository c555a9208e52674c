"""What does not belong in a street: two dozen kinds of things, each different every time, carved and coloured in 3-D.

A maker takes a random generator and gives (mesh, material); the thing stands on
z = 0, about its natural size. None of them occurs, even in part, in the training towns.
"""

from street_animals import cow, dinosaur, duck, elephant, giraffe, pig, zebra
from street_household import bathtub, chess_piece, piano, sofa, teapot, wardrobe
from street_outdoors import aeroplane, barrels, beach_ball, boat, crates, hay, pumpkin, snowman, statue, tent, toadstool

#: name: (maker, smallest and largest factor by which a frame scales it)
KINDS = {
    "giraffe": (giraffe, 0.75, 1.0),
    "sofa": (sofa, 1.0, 1.3),
    "hay bales": (hay, 0.9, 1.2),
    "piano": (piano, 1.0, 1.4),
    "elephant": (elephant, 0.7, 1.0),
    "tent": (tent, 0.9, 1.2),
    "rowing boat": (boat, 0.9, 1.3),
    "zebra": (zebra, 1.0, 1.2),
    "bathtub": (bathtub, 1.0, 1.4),
    "snowman": (snowman, 0.7, 1.1),
    "dinosaur": (dinosaur, 0.7, 1.2),
    "wardrobe": (wardrobe, 0.9, 1.2),
    "aeroplane": (aeroplane, 0.7, 1.1),
    "toadstool": (toadstool, 0.8, 1.2),
    "barrels": (barrels, 0.8, 1.1),
    "cow": (cow, 0.9, 1.2),
    "beach ball": (beach_ball, 0.8, 1.3),
    "crates": (crates, 0.8, 1.1),
    "statue": (statue, 0.7, 1.0),
    "rubber duck": (duck, 0.7, 1.3),
    "pumpkin": (pumpkin, 0.7, 1.2),
    "chess piece": (chess_piece, 0.8, 1.4),
    "teapot": (teapot, 0.7, 1.3),
    "pig": (pig, 0.9, 1.2),
}
