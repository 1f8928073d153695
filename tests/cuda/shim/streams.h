/*
 * streams.h - between the files of the shim's runtime
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SHIM_STREAMS_H
#define SHIM_STREAMS_H
int shim_capturing();
int shim_on_device(const void *p, size_t bytes);
#endif
