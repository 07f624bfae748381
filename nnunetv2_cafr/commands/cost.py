"""`nnUNetv2_cafr cost`: multiply-accumulates, parameters and latency of CAFR-Net beside nnU-Net's own network."""

import argparse

from nnunetv2_cafr import options
from nnunetv2_cafr.errors import UserError

EXAMPLES = """examples:
  nnUNetv2_cafr cost                          256x256, 1 channel, 20 classes: the paper's table
  nnUNetv2_cafr cost --size 640 320
  nnUNetv2_cafr cost -d 511 -c 2d             what your plans file makes of both networks

exit status: 0 measured, 1 CAFR-Net exceeds the paper's multiply-accumulates, 2 the call was refused
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        type=options.whole_number("size in pixels"),
        nargs="+",
        metavar="N",
        help="spatial size of the input (default 256 256)",
    )
    parser.add_argument(
        "--channels", type=options.whole_number("number of channels"), help="input channels (default 1)"
    )
    parser.add_argument(
        "--classes",
        type=options.whole_number("number of classes"),
        help="output classes with background (default 20)",
    )
    parser.add_argument(
        "-d",
        type=options.dataset,
        metavar="DATASET",
        help="take both networks and the patch from this data set's plans",
    )
    parser.add_argument(
        "-c",
        type=options.configuration,
        metavar="CONFIGURATION",
        help="configuration of the plans (default 2d)",
    )
    parser.add_argument("-p", type=options.plans, metavar="PLANS", help="plans identifier (default nnUNetPlans)")
    parser.add_argument("-device", default="cpu", choices=["cpu", "cuda", "mps"], help="default cpu")
    parser.add_argument(
        "--repeats",
        type=options.whole_number("number of passes"),
        default=10,
        help="timed forward passes of each network (default 10)",
    )


def run(arguments: argparse.Namespace) -> int:
    import torch

    from nnunetv2_cafr.benchmark.forward_pass import measure, networks_from_plans, plain_conv_unet, table
    from nnunetv2_cafr.network import CAFRNet
    from nnunetv2_cafr.network.convolution import strides_of_tokens
    from nnunetv2_cafr.network_cost import machine

    of_data = {"-c": arguments.c, "-p": arguments.p}
    of_input = {"--size": arguments.size, "--channels": arguments.channels, "--classes": arguments.classes}
    idle = [option for option, value in (of_input if arguments.d else of_data).items() if value]
    if idle:
        remedy = "leave that to the plans of -d" if arguments.d else "give -d, whose plans they choose"
        raise UserError(f"{' and '.join(idle)} would change nothing here: {remedy}")
    if arguments.d:
        networks, shape = networks_from_plans(arguments.d, arguments.c or "2d", arguments.p or "nnUNetPlans")
    else:
        size, channels, classes = arguments.size or [256, 256], arguments.channels or 1, arguments.classes or 20
        if len(size) not in (2, 3):
            raise UserError(f"--size needs 2 or 3 numbers, got {size}")
        unet, padded = plain_conv_unet(size, channels, classes)
        if padded != size:
            print(f"nnU-Net pads {size} to {padded}; both networks are measured at that size.")
        network = CAFRNet(channels, classes, strides=strides_of_tokens([16] * len(size)))
        networks = {"nnU-Net PlainConvUNet": unet, "CAFRNet": network.apply(network.initialize)}
        shape = [channels, *padded]
    device = torch.device(arguments.device)
    costs = measure(networks, shape, device, arguments.repeats)
    print(
        f"Input (1, {', '.join(map(str, shape))}), eval(), float32, {machine(device)}, torch "
        f"{torch.__version__}, median of {arguments.repeats} interleaved passes"
    )
    print(table(costs))
    if not arguments.d and (shape, classes) == ([1, 256, 256], 20) and any(cost.gmacs > 5.12 for cost in costs[1:]):
        print("CAFR-Net exceeds the paper's 5.12 GMACs at this size.")
        return 1
    return 0
