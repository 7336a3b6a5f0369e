#include "cli/cli.h"

int main(int argc, char** argv) { return nibblecast::run_command_line(argc, argv); }
