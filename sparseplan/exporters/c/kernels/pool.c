/* Pools. n: window rows, columns; strides; padding at the top, left; channels, rows, columns of the input; rows,
   columns of the output; whether padding counts. */

/* The largest entry of a window, and its place in it; the first of equals. */
static float sp_largest(const int32_t *n, const sp_view *x, uint32_t b, uint32_t c, uint32_t oy, uint32_t ox,
                        uint32_t *index) {
    float best = -INFINITY;
    int32_t ky, kx;
    *index = 0;
    for (ky = 0; ky < n[0]; ky++) {
        int32_t iy = (int32_t)oy * n[2] - n[4] + ky;
        uint32_t row = (c * (uint32_t)n[7] + (uint32_t)iy) * (uint32_t)n[8];
        if (iy < 0 || iy >= n[7]) continue;
        for (kx = 0; kx < n[1]; kx++) {
            int32_t ix = (int32_t)ox * n[3] - n[5] + kx;
            float v;
            if (ix < 0 || ix >= n[8]) continue;
            v = sp_get(x, b, row + (uint32_t)ix);
            if (v > best) {
                best = v;
                *index = (uint32_t)(ky * n[1] + kx);
            }
        }
    }
    return best;
}

static void sp_max_pool(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *w = &sp_views[a->w[0]];
    uint32_t b, c, y, z, rows = (uint32_t)a->n[9], cols = (uint32_t)a->n[10], index;
    for (b = 0; b < SP_BATCH; b++)
        for (c = 0; c < (uint32_t)a->n[6]; c++)
            for (y = 0; y < rows; y++)
                for (z = 0; z < cols; z++)
                    sp_put(w, b, (c * rows + y) * cols + z, sp_largest(a->n, x, b, c, y, z, &index));
}

static void sp_max_pool_index(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *w = &sp_views[a->w[0]];
    uint32_t b, c, y, z, rows = (uint32_t)a->n[9], cols = (uint32_t)a->n[10], index;
    for (b = 0; b < SP_BATCH; b++)
        for (c = 0; c < (uint32_t)a->n[6]; c++)
            for (y = 0; y < rows; y++)
                for (z = 0; z < cols; z++) {
                    sp_largest(a->n, x, b, c, y, z, &index);
                    sp_put(w, b, (c * rows + y) * cols + z, (float)index);
                }
}

/* First window that sees element i of an axis, and the one behind the last. */
static uint32_t sp_windows(int32_t i, int32_t pad, int32_t extent, int32_t stride, int32_t count, uint32_t *last) {
    int32_t lo = i + pad - extent + 1, hi = (i + pad) / stride + 1;
    lo = lo > 0 ? (lo + stride - 1) / stride : 0;
    *last = (uint32_t)(hi < count ? hi : count);
    return (uint32_t)lo;
}

/* Gradient of a pool, whose share of each window's gradient `share` gives. */
static void sp_pool_grad(const sp_args *a, float (*share)(const sp_args *, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t)) {
    const sp_view *dy = &sp_views[a->r[0]];
    const int32_t *n = a->n;
    uint32_t q, b, k, j, rows = (uint32_t)n[9], cols = (uint32_t)n[10];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t m, i = sp_range(w, k, &m);
            for (j = 0; j < m; j++) {
                uint32_t e = i + j, c = e / (uint32_t)(n[7] * n[8]), oy, ox, y1, x1, y0, x0;
                int32_t iy = (int32_t)(e / (uint32_t)n[8] % (uint32_t)n[7]), ix = (int32_t)(e % (uint32_t)n[8]);
                float total = 0.0f;
                y0 = sp_windows(iy, n[4], n[0], n[2], n[9], &y1);
                x0 = sp_windows(ix, n[5], n[1], n[3], n[10], &x1);
                for (oy = y0; oy < y1; oy++)
                    for (ox = x0; ox < x1; ox++) {
                        int32_t ky = iy + n[4] - (int32_t)oy * n[2], kx = ix + n[5] - (int32_t)ox * n[3];
                        float part = share(a, b, c, oy, ox, (uint32_t)(ky * n[1] + kx));
                        if (part != 0.0f) total += part * sp_get(dy, b, (c * rows + oy) * cols + ox);
                    }
                sp_put(w, b, e, total);
            }
        }
    }
}

static float sp_share_index(const sp_args *a, uint32_t b, uint32_t c, uint32_t oy, uint32_t ox, uint32_t tap) {
    uint32_t i = (c * (uint32_t)a->n[9] + oy) * (uint32_t)a->n[10] + ox;
    return (uint32_t)sp_get(&sp_views[a->r[1]], b, i) == tap ? 1.0f : 0.0f;
}

static void sp_max_pool_grad_index(const sp_args *a) {
    sp_pool_grad(a, sp_share_index);
}

static float sp_share_input(const sp_args *a, uint32_t b, uint32_t c, uint32_t oy, uint32_t ox, uint32_t tap) {
    uint32_t index;
    sp_largest(a->n, &sp_views[a->r[1]], b, c, oy, ox, &index);
    return index == tap ? 1.0f : 0.0f;
}

static void sp_max_pool_grad_input(const sp_args *a) {
    sp_pool_grad(a, sp_share_input);
}

/* Entries of a window that lie in the image (all, where padding counts). */
static float sp_entries(const int32_t *n, uint32_t oy, uint32_t ox) {
    int32_t y = (int32_t)oy * n[2] - n[4], x = (int32_t)ox * n[3] - n[5];
    int32_t rows = (y + n[0] < n[7] ? y + n[0] : n[7]) - (y > 0 ? y : 0);
    int32_t cols = (x + n[1] < n[8] ? x + n[1] : n[8]) - (x > 0 ? x : 0);
    return (float)(n[11] ? n[0] * n[1] : rows * cols);
}

static void sp_avg_pool(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *w = &sp_views[a->w[0]];
    const int32_t *n = a->n;
    uint32_t b, c, y, z, rows = (uint32_t)n[9], cols = (uint32_t)n[10];
    for (b = 0; b < SP_BATCH; b++)
        for (c = 0; c < (uint32_t)n[6]; c++)
            for (y = 0; y < rows; y++)
                for (z = 0; z < cols; z++) {
                    float total = 0.0f;
                    int32_t ky, kx;
                    for (ky = 0; ky < n[0]; ky++) {
                        int32_t iy = (int32_t)y * n[2] - n[4] + ky;
                        uint32_t row = (c * (uint32_t)n[7] + (uint32_t)iy) * (uint32_t)n[8];
                        if (iy < 0 || iy >= n[7]) continue;
                        for (kx = 0; kx < n[1]; kx++) {
                            int32_t ix = (int32_t)z * n[3] - n[5] + kx;
                            if (ix >= 0 && ix < n[8]) total += sp_get(x, b, row + (uint32_t)ix);
                        }
                    }
                    sp_put(w, b, (c * rows + y) * cols + z, total * (1.0f / sp_entries(n, y, z)));
                }
}

static float sp_share_mean(const sp_args *a, uint32_t b, uint32_t c, uint32_t oy, uint32_t ox, uint32_t tap) {
    (void)b;
    (void)c;
    (void)tap;
    return 1.0f / sp_entries(a->n, oy, ox);
}

static void sp_avg_pool_grad(const sp_args *a) {
    sp_pool_grad(a, sp_share_mean);
}

/* The mean of each channel; n: channels, elements of one. */
static void sp_global_avg_pool(const sp_args *a) {
    uint32_t b, c, m = (uint32_t)a->n[1];
    for (b = 0; b < SP_BATCH; b++)
        for (c = 0; c < (uint32_t)a->n[0]; c++)
            sp_put(&sp_views[a->w[0]], b, c, sp_sum(&sp_views[a->r[0]], c * m, m, b) / (float)m);
}

static void sp_global_avg_pool_grad(const sp_args *a) {
    uint32_t q, b, k, j, inner = (uint32_t)a->n[1];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n, i = sp_range(w, k, &n);
            for (j = 0; j < n; j++)
                sp_put(w, b, i + j, sp_get(&sp_views[a->r[0]], b, (i + j) / inner) / (float)inner);
        }
    }
}

/* Upsampling by whole factors. n: factors; rows left out at the top; rows, columns of the input; of the output. */
static void sp_nearest(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *w = &sp_views[a->w[0]];
    uint32_t b, k, j, sh = (uint32_t)a->n[0], sw = (uint32_t)a->n[1], top = (uint32_t)a->n[2];
    uint32_t ih = (uint32_t)a->n[3], iw = (uint32_t)a->n[4], oh = (uint32_t)a->n[5], ow = (uint32_t)a->n[6];
    SP_EACH_RANGE(w, b, k) {
        uint32_t n, i = sp_range(w, k, &n);
        for (j = 0; j < n; j++) {
            uint32_t e = i + j, c = e / (oh * ow), y = (e / ow % oh + top) / sh;
            sp_put(w, b, e, sp_get(x, b, (c * ih + y) * iw + e % ow / sw));
        }
    }
}

static void sp_nearest_grad(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]];
    uint32_t sh = (uint32_t)a->n[0], sw = (uint32_t)a->n[1], top = (uint32_t)a->n[2], q, b, k, j, y, z;
    uint32_t ih = (uint32_t)a->n[3], iw = (uint32_t)a->n[4], oh = (uint32_t)a->n[5], ow = (uint32_t)a->n[6];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n, i = sp_range(w, k, &n);
            for (j = 0; j < n; j++) {
                uint32_t e = i + j, c = e / (ih * iw), iy = e / iw % ih, ix = e % iw;
                float total = 0.0f;
                for (y = iy * sh; y < (iy + 1u) * sh; y++) {
                    if (y < top || y >= top + oh) continue;
                    for (z = ix * sw; z < (ix + 1u) * sw; z++) total += sp_get(dy, b, (c * oh + y - top) * ow + z);
                }
                sp_put(w, b, e, total);
            }
        }
    }
}

/* The two entries that an output lies between, and the weight of the second: pixel centres, held within the input. */
static float sp_between(uint32_t o, uint32_t scale, uint32_t extent, uint32_t *low, uint32_t *high) {
    int32_t at = 2 * (int32_t)o + 1 - (int32_t)scale;
    if (at < 0) at = 0;
    *low = (uint32_t)at / (2u * scale);
    *high = sp_min(*low + 1u, extent - 1u);
    return (float)((uint32_t)at % (2u * scale)) / (float)(2u * scale);
}

/* The weight of entry i in output o. */
static float sp_blend(uint32_t o, uint32_t i, uint32_t scale, uint32_t extent) {
    uint32_t low, high;
    float t = sp_between(o, scale, extent, &low, &high);
    return (i == low ? 1.0f - t : 0.0f) + (i == high ? t : 0.0f);
}

static void sp_bilinear(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *w = &sp_views[a->w[0]];
    uint32_t b, k, j, sh = (uint32_t)a->n[0], sw = (uint32_t)a->n[1], top = (uint32_t)a->n[2];
    uint32_t ih = (uint32_t)a->n[3], iw = (uint32_t)a->n[4], oh = (uint32_t)a->n[5], ow = (uint32_t)a->n[6];
    SP_EACH_RANGE(w, b, k) {
        uint32_t n, i = sp_range(w, k, &n);
        for (j = 0; j < n; j++) {
            uint32_t e = i + j, c = e / (oh * ow) * ih, y0, y1, x0, x1;
            float u = sp_between(e / ow % oh + top, sh, ih, &y0, &y1), v = sp_between(e % ow, sw, iw, &x0, &x1);
            float p = (1.0f - v) * sp_get(x, b, (c + y0) * iw + x0) + v * sp_get(x, b, (c + y0) * iw + x1);
            float q = (1.0f - v) * sp_get(x, b, (c + y1) * iw + x0) + v * sp_get(x, b, (c + y1) * iw + x1);
            sp_put(w, b, e, (1.0f - u) * p + u * q);
        }
    }
}

static void sp_bilinear_grad(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]];
    uint32_t sh = (uint32_t)a->n[0], sw = (uint32_t)a->n[1], top = (uint32_t)a->n[2], q, b, k, j, y, z;
    uint32_t ih = (uint32_t)a->n[3], iw = (uint32_t)a->n[4], oh = (uint32_t)a->n[5], ow = (uint32_t)a->n[6];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n, i = sp_range(w, k, &n);
            for (j = 0; j < n; j++) {
                uint32_t e = i + j, c = e / (ih * iw), iy = e / iw % ih, ix = e % iw;
                uint32_t z0 = ix ? (ix - 1u) * sw : 0u, z1 = sp_min((ix + 2u) * sw, ow);
                float total = 0.0f;
                for (y = iy ? (iy - 1u) * sh : 0u; y < (iy + 2u) * sh; y++) {
                    float t = sp_blend(y, iy, sh, ih), part = 0.0f;
                    if (y < top || y >= top + oh || t == 0.0f) continue;
                    for (z = z0; z < z1; z++) {
                        float u = sp_blend(z, ix, sw, iw);
                        if (u != 0.0f) part += u * sp_get(dy, b, (c * oh + y - top) * ow + z);
                    }
                    total += t * part;
                }
                sp_put(w, b, e, total);
            }
        }
    }
}
