#pragma once // kernel.h has it
