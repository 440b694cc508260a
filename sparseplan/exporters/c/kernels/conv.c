/* Convolutions. "Wide" is the side that windows slide over, "deep" the side with one entry a window.
   n: kernel rows, columns; strides; padding at the top, left; dilations; groups; wide channels, rows, columns; deep
   channels, rows, columns; then, of a weight's gradient, deep channels and wide channels of a group that are kept. */

#define SP_BLOCK 16u

/* Channels and rows of an image that a view which is written has. */
static void sp_box(const sp_view *w, uint32_t *c0, uint32_t *c1, uint32_t *r0, uint32_t *r1) {
    const sp_part *p = &sp_parts[w->part];
    *c0 = p->c0;
    *c1 = p->c1;
    *r0 = p->r0;
    *r1 = p->r1;
}

/* Deep from wide: a convolution forwards, a transposed one backwards. */
static void sp_correlate(const sp_args *a, const sp_view *x, const sp_view *weight, const sp_view *bias,
                         const sp_view *w) {
    const int32_t *n = a->n;
    uint32_t kh = (uint32_t)n[0], kw = (uint32_t)n[1], per = (uint32_t)(n[9] / n[8]), dper = (uint32_t)(n[12] / n[8]);
    uint32_t ow = (uint32_t)n[14], oh = (uint32_t)n[13], b, d, y, x0, c, ky, kx, j, c0, c1, r0, r1;
    int32_t height = n[10], width = n[11];
    sp_box(w, &c0, &c1, &r0, &r1);
    for (b = 0; b < SP_BATCH; b++)
        for (d = c0; d < c1; d++)
            for (y = r0; y < r1; y++) {
                sp_seg to = sp_at(w, b, (d * oh + y) * ow);
                float first = bias ? sp_get(bias, 0, d) : 0.0f;
                for (x0 = 0; x0 < ow; x0 += SP_BLOCK) {
                    float sum[SP_BLOCK];
                    uint32_t m = sp_min(SP_BLOCK, ow - x0);
                    for (j = 0; j < SP_BLOCK; j++) sum[j] = 0.0f;
                    for (c = 0; c < per; c++)
                        for (ky = 0; ky < kh; ky++) {
                            int32_t iy = (int32_t)y * n[2] - n[4] + (int32_t)ky * n[6];
                            uint32_t channel = d / dper * per + c;
                            sp_seg row, taps;
                            if (iy < 0 || iy >= height) continue;
                            row = sp_at(x, b, (channel * (uint32_t)height + (uint32_t)iy) * (uint32_t)width);
                            if (!row.p) continue;
                            taps = sp_at(weight, b, ((d * per + c) * kh + ky) * kw);
                            for (kx = 0; kx < kw; kx++) {
                                float t = sp_ld(weight, &taps, kx);
                                int32_t at = (int32_t)x0 * n[3] - n[5] + (int32_t)kx * n[7];
                                for (j = 0; j < m && at < 0; j++) at += n[3];
                                for (; j < m && at < width; j++) {
                                    sum[j] += t * sp_ld(x, &row, (uint32_t)at);
                                    at += n[3];
                                }
                            }
                        }
                    for (j = 0; j < m; j++) sp_st(w, &to, x0 + j, sum[j] + first);
                }
            }
}

/* Wide from deep, its adjoint: a convolution backwards, a transposed one forwards. */
static void sp_scatter(const sp_args *a, const sp_view *x, const sp_view *weight, const sp_view *bias,
                       const sp_view *w) {
    const int32_t *n = a->n;
    uint32_t kh = (uint32_t)n[0], kw = (uint32_t)n[1], per = (uint32_t)(n[9] / n[8]), dper = (uint32_t)(n[12] / n[8]);
    uint32_t height = (uint32_t)n[10], width = (uint32_t)n[11], b, c, y, x0, d, ky, kx, j, c0, c1, r0, r1;
    sp_box(w, &c0, &c1, &r0, &r1);
    for (b = 0; b < SP_BATCH; b++)
        for (c = c0; c < c1; c++)
            for (y = r0; y < r1; y++) {
                sp_seg to = sp_at(w, b, (c * height + y) * width);
                float first = bias ? sp_get(bias, 0, c) : 0.0f;
                for (x0 = 0; x0 < width; x0 += SP_BLOCK) {
                    float sum[SP_BLOCK];
                    uint32_t m = sp_min(SP_BLOCK, width - x0);
                    for (j = 0; j < SP_BLOCK; j++) sum[j] = 0.0f;
                    for (d = c / per * dper; d < (c / per + 1u) * dper; d++)
                        for (ky = 0; ky < kh; ky++) {
                            int32_t oy = (int32_t)y + n[4] - (int32_t)ky * n[6];
                            sp_seg row, taps;
                            if (oy < 0 || oy % n[2] || oy / n[2] >= n[13]) continue;
                            row = sp_at(x, b, (d * (uint32_t)n[13] + (uint32_t)(oy / n[2])) * (uint32_t)n[14]);
                            if (!row.p) continue;
                            taps = sp_at(weight, b, ((d * per + c % per) * kh + ky) * kw);
                            for (kx = 0; kx < kw; kx++) {
                                float t = sp_ld(weight, &taps, kx);
                                int32_t at = (int32_t)x0 + n[5] - (int32_t)kx * n[7];
                                uint32_t o;
                                for (j = 0; j < m && (at < 0 || at % n[3]); j++) at++;
                                o = (uint32_t)(at / n[3]);
                                for (; j < m && o < (uint32_t)n[14]; j += (uint32_t)n[3])
                                    sum[j] += t * sp_ld(x, &row, o++);
                            }
                        }
                    for (j = 0; j < m; j++) sp_st(w, &to, x0 + j, sum[j] + first);
                }
            }
}

static void sp_conv(const sp_args *a) {
    sp_correlate(a, &sp_views[a->r[0]], &sp_views[a->r[1]], a->reads > 2u ? &sp_views[a->r[2]] : 0,
                 &sp_views[a->w[0]]);
}

static void sp_conv_grad(const sp_args *a) {
    uint32_t q;
    for (q = 0; q < a->writes; q++)
        sp_scatter(a, &sp_views[a->r[0]], &sp_views[a->r[1]], 0, &sp_views[a->w[q]]);
}

static void sp_conv_transpose(const sp_args *a) {
    sp_scatter(a, &sp_views[a->r[0]], &sp_views[a->r[1]], a->reads > 2u ? &sp_views[a->r[2]] : 0,
               &sp_views[a->w[0]]);
}

static void sp_conv_transpose_grad(const sp_args *a) {
    uint32_t q;
    for (q = 0; q < a->writes; q++)
        sp_correlate(a, &sp_views[a->r[0]], &sp_views[a->r[1]], 0, &sp_views[a->w[q]]);
}

/* Gradient of the weight, from wide and deep of samples [first, last); n: also the channels that are kept. */
static void sp_conv_weight_of(const int32_t *n, const sp_view *wide, const sp_view *deep, const sp_view *w,
                              uint32_t first, uint32_t last) {
    uint32_t per = (uint32_t)(n[9] / n[8]), dper = (uint32_t)(n[12] / n[8]), i = 0, b, d, c;
    int32_t ky, kx, y;
    for (d = 0; d < (uint32_t)n[15]; d++)
        for (c = 0; c < (uint32_t)n[16]; c++)
            for (ky = 0; ky < n[0]; ky++)
                for (kx = 0; kx < n[1]; kx++) {
                    int32_t shift = kx * n[7] - n[5]; /* column of wide that output column 0 sees */
                    int32_t lo = shift < 0 ? (n[3] - 1 - shift) / n[3] : 0;
                    int32_t hi = shift >= n[11] ? 0 : (n[11] - 1 - shift) / n[3] + 1, x;
                    uint32_t channel = d / dper * per + c;
                    float total = 0.0f;
                    if (hi > n[14]) hi = n[14];
                    for (b = first; b < last; b++)
                        for (y = 0; y < n[13]; y++) {
                            int32_t iy = y * n[2] - n[4] + ky * n[6];
                            float part = 0.0f;
                            sp_seg s, t;
                            if (iy < 0 || iy >= n[10]) continue;
                            s = sp_at(wide, b, (channel * (uint32_t)n[10] + (uint32_t)iy) * (uint32_t)n[11]);
                            t = sp_at(deep, b, (d * (uint32_t)n[13] + (uint32_t)y) * (uint32_t)n[14]);
                            if (!s.p || !t.p) continue;
                            for (x = lo; x < hi; x++)
                                part += sp_ld(wide, &s, (uint32_t)(x * n[3] + shift)) * sp_ld(deep, &t, (uint32_t)x);
                            total += part;
                        }
                    sp_put(w, first, i++, total);
                }
}

/* Of a weight that is an activation each sample has a gradient of its own. */
static void sp_conv_weight(const sp_args *a, const sp_view *wide, const sp_view *deep) {
    const sp_view *w = &sp_views[a->w[0]];
    uint32_t b;
    if (!w->batch) sp_conv_weight_of(a->n, wide, deep, w, 0, SP_BATCH);
    for (b = 0; w->batch && b < SP_BATCH; b++) sp_conv_weight_of(a->n, wide, deep, w, b, b + 1u);
}

static void sp_conv_grad_weight(const sp_args *a) {
    sp_conv_weight(a, &sp_views[a->r[1]], &sp_views[a->r[0]]);
}

static void sp_conv_transpose_grad_weight(const sp_args *a) {
    sp_conv_weight(a, &sp_views[a->r[0]], &sp_views[a->r[1]]);
}
