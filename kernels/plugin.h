/*
 * plugin.h - shared objects that are loaded on demand: lib/adze/adze-NAME.so beside the program
 *
 * Looked for in the folders above the running program (bin/.. when installed; build/tests/X/../.. for a test program), so
 * nothing depends on where the tree was built.  The environment variable ADZE_LIB names the folder instead.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_PLUGIN_H
#define ADZE_PLUGIN_H
/* The handle for dlsym, or NULL with why[] filled (one line): not there, cannot be loaded, or its int `symbol` is not
 * `version`.  What was opened once stays. */
void *plugin_open(const char *name, const char *symbol, int version, char why[256]);
#endif
